-- database: engine
-- Corrections of what lost or repeated something in rare interleavings.

-- As before; the event says when its run began, which is what now() is there at first.
create or replace function continue_instance(instance uuid, e json) returns void
language plpgsql volatile as $$
declare
  event uuid := gen_random_uuid();
  business timestamptz := business_now();
begin
  insert into events (id, type, entity, entity_id, at, noticed_at, settled, customer_id, payload)
  select event, 'continued', 'instance', instance::text, business, business, q.since,
         i.customer_id, (e::jsonb || jsonb_build_object('id', event, 'began', utc(business)))::json
  from workflow_queue q join workflow_instances i on i.id = q.instance_id
  where q.instance_id = instance;
  delete from workflow_waits w where w.instance_id = instance;
  delete from workflow_subscriptions s where s.instance_id = instance and s.kind = 'wait';
  update workflow_queue q set run = q.run + 1, event_id = event where q.instance_id = instance;
end $$;

-- What gathers may be claimed, and then get one event more before it begins: the worker has the event
-- as it was. It is given back once, by flow_begin(), and read anew.
alter table workflow_flow add column anew boolean;

create function flow_anew(instance uuid) returns void language sql volatile as $$
  update workflow_flow x set anew = true
  where x.instance_id = instance
    and exists (select from workflow_queue q where q.instance_id = instance and q.worker is not null)
$$;

-- The event of a batch: the first, with all of them by time.
create or replace function batch_event(instance uuid) returns void language plpgsql volatile as $$
declare
  i record;
  e uuid;
  list json;
begin
  select w.event_id, w.customer_id, q.event_id as of_queue into i
  from workflow_instances w join workflow_queue q on q.instance_id = w.id where w.id = instance;
  select json_agg(x.payload order by b.settled) into list
  from workflow_batches b join events x on x.id = b.event_id where b.instance_id = instance;
  e := i.of_queue;
  if e = i.event_id then
    e := gen_random_uuid();
    insert into events (id, type, entity, entity_id, at, noticed_at, settled, customer_id, payload)
    select e, 'batch', 'instance', instance::text, x.at, x.noticed_at, x.settled, i.customer_id, '{}'
    from events x where x.id = i.event_id;
    update workflow_queue q set event_id = e where q.instance_id = instance;
  end if;
  update events x
  set payload = (select (f.payload::jsonb || jsonb_build_object('batch', list::jsonb))::json
                 from events f where f.id = i.event_id)
  where x.id = e;
  perform flow_anew(instance);
end $$;

-- A newer event takes the place of the one that waits. False: its key is another's.
create or replace function debounce_take(s workflow_start, f workflow_flow, q workflow_queue) returns boolean
language plpgsql volatile as $$
declare
  key text := s.workflow || ' ' || s.mode || ' ' || key_today(s.key);
begin
  if key is distinct from coalesce(q.business_key, q.queued_key) then
    if key is not null and exists (select from workflow_queue x
                                   where x.business_key = key or x.queued_key = key) then
      return false;
    end if;
    update workflow_queue x set business_key = key, queued_key = null
    where x.instance_id = f.instance_id and x.queued_key is null;
    if not found then
      return false;
    end if;
  end if;
  update workflow_queue x
  set event_id = s.event, since = s.settled, workflow_definition_id = s.definition,
      watched = x.watched or json_array_length(s.stops) > 0
  where x.instance_id = f.instance_id;
  update workflow_instances i
  set event_id = s.event, workflow_definition_id = s.definition, customer_id = s.customer_id,
      entity = s.entity, entity_id = s.entity_id, business_key = key
  where i.id = f.instance_id;
  delete from workflow_subscriptions x where x.instance_id = f.instance_id and x.kind = 'stop';
  perform flow_anew(f.instance_id);
  s.instance := f.instance_id;
  perform settle_subscribe(s);
  return true;
end $$;

-- As before; and who called one that queued, and is replaced, is told that it has ended.
create or replace function settle_taken(instance uuid, workflow text, key text, if_running text,
                                        event uuid, queue workflow_queue) returns text
language plpgsql volatile as $$
declare
  holder uuid;
  rest uuid[];
  parents uuid[];
begin
  loop
    select q.instance_id into holder from workflow_queue q where q.business_key = key
    for no key update;
    exit when found;
    queue.business_key := key;
    if queue_start(queue) then
      return 'started';
    end if;
  end loop;
  perform flow_row(workflow, event, case if_running when 'skip' then 'skipped' else 'delayed' end,
                   'key taken', case when if_running <> 'skip' then instance end,
                   jsonb_build_object('key', key, 'instance', holder));
  if if_running = 'skip' then
    return 'skipped';
  end if;
  if if_running = 'replace' then
    perform stop_instance(holder, 'replaced', event);
    -- Those that queue behind it have not begun: they end here.
    with gone as (
      delete from workflow_queue q
      where q.queued_key = key and q.worker is null and q.state <> 'stopping'
      returning q.instance_id, q.parent_id)
    select array_agg(g.instance_id),
           array_agg(distinct g.parent_id) filter (where g.parent_id is not null)
    into rest, parents from gone g;
    if rest is not null then
      update workflow_instances i
      set state = 'stopped', reason = 'replaced', finished_at = business_now()
      where i.id = any(rest);
      delete from workflow_subscriptions s where s.instance_id = any(rest);
      delete from workflow_inbox b where b.instance_id = any(rest);
      perform flow_left(rest);
      if parents is not null then
        perform children_ended(parents);
      end if;
    end if;
  end if;
  queue.business_key := null;
  queue.queued_key := key;
  queue.due := null;
  perform queue_start(queue);
  return 'queued';
end $$;

-- Facts from before this were events, whose rows are gone by now: they are no new ones, but for those
-- from before an import, that somebody asked for (silent). An invoice may be overdue for 400 days.
alter table retention_cursors add column forgotten timestamptz not null default '-infinity';

create or replace function retain_events(payload_days int, ledger_days int, n int) returns json
language plpgsql volatile as $$
declare
  c retention_cursors := retention_turn('events');
  payloads timestamptz := retention_before(payload_days);
  rows_ timestamptz := retention_before(ledger_days);
  looked int;
  upto bigint;
  free uuid[];
  gone uuid[];
  stripped bigint;
begin
  if c.what is null then
    return json_build_object('looked', 0, 'payloads', 0, 'rows', 0, 'more', false);
  end if;
  with old as materialized (
    select e.id, e.settled, event_is_wanted(e) as wanted
    from events e
    where e.id = any(array(select x.id from events x where x.settled > c.settled
                           order by x.settled limit n))
      and e.noticed_at < greatest(payloads, rows_)
  )
  select count(*), max(o.settled), coalesce(array_agg(o.id) filter (where not o.wanted), '{}')
  into looked, upto, free from old o;
  gone := array(
    select e.id from events e
    where e.id = any(free) and e.noticed_at < rows_
      and not exists (select from workflow_instances i where i.event_id = e.id));
  delete from event_keys k
  where k.event_id = any(gone)
    and k.settled between c.settled and (select coalesce(max(e.settled), -1) from events e
                                         where e.id = any(gone));
  delete from events e where e.id = any(gone);
  update events e set payload = '{}'
  where e.id = any(free) and e.noticed_at < payloads and e.payload::text <> '{}';
  get diagnostics stripped = row_count;
  update retention_cursors r
  set settled = case when looked = n then upto else -1 end,
      forgotten = case when cardinality(gone) > 0 then greatest(r.forgotten, rows_) else r.forgotten end
  where r.what = 'events';
  return json_build_object('looked', looked, 'payloads', stripped, 'rows', cardinality(gone),
                           'more', looked = n);
end $$;

create or replace function settle_events(list json, base bigint, out fresh uuid[], out keys text[],
                              out types text[], out ids uuid[], out numbers bigint[])
language plpgsql volatile as $$
begin
  with e as materialized (
    select x.*, base + x.ord as settled
    from rows from (json_to_recordset(list) as (
      id uuid, type text, entity text, entity_id text, at timestamptz, noticed timestamptz,
      ours boolean, weak boolean, silent boolean, customer bigint, keys json, payload json)) with ordinality
      as x (id, type, entity, entity_id, at, noticed, ours, weak, silent, customer, keys, payload, ord)
  ), inserted as (
    insert into events (id, type, entity, entity_id, at, noticed_at, settled, customer_id, payload)
    select e.id, e.type, e.entity, e.entity_id, case when e.ours then business_of(e.at) else e.at end,
           e.noticed, e.settled, e.customer, e.payload
    from e
    where not (coalesce(e.weak, false)
               and exists (select from events k where k.type = e.type and k.entity = e.entity
                             and k.entity_id = e.entity_id))
      and not (e.at < (select c.forgotten from retention_cursors c where c.what = 'events')
               and coalesce(e.ours, e.silent) is not true)
    order by e.ord
    on conflict do nothing
    returning id
  ), known as materialized (
    select distinct key_today(k.value) as key, e.type, e.settled, e.id
    from e join inserted i on i.id = e.id
    cross join lateral json_array_elements_text(e.keys) k
  ), kept as (
    insert into event_keys (key, type, settled, event_id)
    select k.key, k.type, k.settled, k.id from known k order by 1, 2
    on conflict do nothing
  )
  select (select coalesce(array_agg(i.id), '{}') from inserted i), array_agg(k.key),
         array_agg(k.type), array_agg(k.id), array_agg(k.settled)
  into fresh, keys, types, ids, numbers
  from known k;
end $$;

-- The same, behind a place that one of its answers told as the last: of what a rule's `when` refuses no
-- event is made, so it would be found again and hide the rest.
drop function daily_new(text, text, json, timestamptz, int);
create function daily_new(rule text, of text, rows json, live_since timestamptz, n int,
                          after json default null)
returns json language sql stable as $$
  with asked as (
    select r.value->>0 as id, r.value->>1 as once,
           ((r.value->>1)::date + 1)::timestamp at time zone 'UTC' as at
    from json_array_elements(rows) r
    where r.value->>1 is not null
  ), fresh as (
    select a.id, a.once, a.at, row_number() over (order by a.at, a.id) as nth,
           count(*) over () as total
    from asked a
    where a.at >= coalesce(live_since, '-infinity')
      and a.at >= (select c.forgotten from retention_cursors c where c.what = 'events')
      and (after is null or (a.at, a.id) > ((after->>'at')::timestamptz, after->>'id'))
      and not exists (select from events e where e.type = rule and e.entity = of
                        and e.entity_id = a.id and e.at = a.at offset 0)
  )
  select json_build_object('more', coalesce(max(f.total), 0) > n,
           'rows', coalesce(json_agg(json_build_object('id', f.id, 'once', f.once) order by f.nth)
                              filter (where f.nth <= n), '[]'),
           'last', (select json_build_object('at', l.at, 'id', l.id) from fresh l
                    where l.nth = least(n, l.total)))
  from fresh f
$$;

-- As before, under the gate: a wait that gives up either sees this answer, or was over before it, and
-- whoever answers is told so.
create or replace function answer_task(task uuid, answer json) returns text language plpgsql volatile as $$
declare
  t staff_tasks;
  over text;
  at_ timestamptz;
begin
  perform 1 from gate for share;
  at_ := business_now();
  select * into t from staff_tasks x where x.id = task for update;
  if not found then
    return 'unknown';
  end if;
  over := task_is_over(t);
  if over is not null then
    return over;
  end if;
  update staff_tasks x
  set done_at = at_, done_by = coalesce(nullif(btrim(answer->>'by'), ''), t.role),
      approved = case when t.approval then (answer->>'approved')::boolean end,
      answer_text = coalesce(answer->>'text', t.note), answer_note = nullif(answer->>'note', '')
  where x.id = task returning * into t;
  insert into arrivals (type, entity, entity_id, at, payload, dedupe)
  values (case when t.approval then 'task_answered' else 'task_done' end, 'task', t.id::text, at_,
          json_strip_nulls(json_build_object(
            'task', json_build_object('id', t.id, 'to', t.role, 'title', t.title, 'note', t.note),
            'customer', (select e.payload->'customer' from workflow_instances i
                         join events e on e.id = i.event_id where i.id = t.instance_id),
            'data', json_build_object('approved', t.approved, 'by', t.done_by,
                                      'text', t.answer_text, 'note', t.answer_note))),
          'task ' || t.id);
  perform pg_notify('arrivals', '');
  return 'done';
end $$;

-- As before; but what is past the deadline of one of its waits is so because detection isn't: it looks
-- again in a moment, not at once.
create or replace function release(me uuid, list json) returns setof uuid language plpgsql volatile as $$
declare
  w json;
  id uuid;
  next_due timestamptz;
  next_state text;
  why json;
  old record;
begin
  for w in select e.value from json_array_elements(list) e order by e.value->>'instance' loop
    id := (w->>'instance')::uuid;
    select q.state, q.reason into old
    from workflow_queue q where q.instance_id = id and q.worker = me for no key update;
    if not found then
      return next id;
      continue;
    end if;
    next_due := coalesce((w->>'due')::timestamptz, real_of((w->>'deadline')::timestamptz));
    if (w->>'deadline')::timestamptz <= business_now() then
      next_due := clock_timestamp() + interval '1 s';
    end if;
    next_state := w->>'state';
    why := w->'reason';
    if json_typeof(why) = 'null' then
      why := null;
    end if;
    if (w->>'keep')::boolean then
      next_state := old.state;
      why := old.reason;
    elsif old.state = 'stopping' and next_state = 'stuck' then
      why := (why::jsonb || jsonb_build_object('stopping', old.reason))::json;
    elsif old.state = 'stopping' then
      next_state := old.state;
      why := old.reason;
    end if;
    if next_state = 'stuck' and why->>'since' is null then
      why := (why::jsonb || jsonb_build_object('since', utc(business_now())))::json;
    end if;
    if next_state = 'paused' then
      delete from workflow_inbox b where b.instance_id = id and b.kind = 'paused';
    end if;
    delete from workflow_inbox b where b.instance_id = id and b.kind = 'resume';
    if found then
      next_state := case old.state when 'stopping' then old.state else 'pending' end;
      next_due := clock_timestamp();
      why := case old.state when 'stopping' then old.reason end;
    elsif why->>'code' is distinct from 'stop_error' and stop_pending(id) then
      next_due := clock_timestamp();
    end if;
    update workflow_inbox b set verdict = 'seen'
    where b.instance_id = id and b.kind = 'wait' and b.verdict is null;
    if found and next_state = 'waiting' then
      next_due := clock_timestamp();
    end if;
    if w->'continue' is not null and old.state <> 'stopping' then
      perform continue_instance(id, w->'continue');
    end if;
    update workflow_queue q
    set worker = null, due = next_due, state = next_state, reason = why
    where q.instance_id = id;
  end loop;
end $$;

-- As before; what was asked of one while a worker held it, to stop or to pause, is asked on.
create or replace function migrate_instances(target int, list json) returns setof uuid
language plpgsql volatile as $$
declare
  m record;
  base bigint;
begin
  for m in
    select x.instance, x.epoch, x.stops
    from json_to_recordset(list) as x (instance uuid, epoch int, stops json)
    order by x.instance
  loop
    update workflow_queue q set workflow_definition_id = target
    where q.instance_id = m.instance and q.worker is null and q.epoch = m.epoch
      and exists (select from workflow_definitions d join workflow_instances i on i.workflow = d.name
                  where d.id = target and i.id = m.instance)
    returning q.since into base;
    continue when not found;
    update workflow_instances i set workflow_definition_id = target where i.id = m.instance;
    if m.stops is not null then
      delete from workflow_subscriptions s where s.instance_id = m.instance and s.kind = 'stop';
      insert into workflow_subscriptions (instance_id, kind, type, key, since, judged)
      select m.instance, 'stop', w.type, key_today(w.key), base, bool_or(w.judged)
      from json_to_recordset(m.stops) as w (type text, key text, judged boolean)
      group by w.type, key_today(w.key);
      update workflow_queue q
      set watched = json_array_length(m.stops) > 0
            or exists (select from workflow_inbox b where b.instance_id = m.instance
                         and b.kind not in ('stop', 'wait', 'resume'))
      where q.instance_id = m.instance;
      update workflow_queue q
      set due = case when stop_pending(m.instance) then clock_timestamp() else q.due end
      where q.instance_id = m.instance and q.due is not null;
    end if;
    return next m.instance;
  end loop;
end $$;

-- What the database's clock says may be set back, by hours. What was written before must not hold until
-- then: tokens and a vendor's pause, which is never of more than ten minutes, and the lease of the dead.

create or replace function draw_tokens(p_provider text, p_want int, out granted int, out wait_ms int)
language plpgsql as $$
declare
  l provider_limits;
  v_now timestamptz;
begin
  insert into provider_limits (provider, capacity, refill, tokens) values (p_provider, 10, 5, 10)
  on conflict do nothing;
  select * into l from provider_limits where provider = p_provider for update;
  v_now := clock_timestamp();
  l.tokens := least(l.capacity, l.tokens + l.refill
                    * greatest(0, extract(epoch from v_now - l.refilled_at)));
  if l.paused_until > v_now and l.paused_until < v_now + interval '15 minutes' then
    granted := 0;
    wait_ms := ceil(extract(epoch from l.paused_until - v_now) * 1000) + 1;
  else
    granted := least(p_want, floor(l.tokens)::int);
    wait_ms := case when granted > 0 then 0 else ceil((1 - l.tokens) / l.refill * 1000) end;
  end if;
  update provider_limits set tokens = l.tokens - granted, refilled_at = v_now,
    paused_until = case when paused_until < v_now + interval '15 minutes' then paused_until end
  where provider = p_provider;
end
$$;

create or replace function takeover(dead uuid, seen bigint) returns bigint
language plpgsql volatile as $$
declare
  released bigint;
begin
  delete from workflow_workers w
  where w.id = dead and (seen is null or (w.beat = seen
         and (w.until < clock_timestamp() or w.until > clock_timestamp() + interval '15 minutes')));
  if not found then
    return null;
  end if;
  update workflow_queue q set worker = null
  where q.instance_id = any(array(select p.instance_id from workflow_queue p where p.worker = dead
                                  order by p.instance_id for no key update));
  get diagnostics released = row_count;
  if released > 0 then
    notify work;
  end if;
  return released;
end $$;
