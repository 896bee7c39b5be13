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
-- as it was. It is given back once, and read anew.
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

-- Asked before the body of these instances goes on; a unit with other rows has the gate already.
-- Returns those that this worker doesn't hold: also those that may not go on, which are given back
-- here. What was to stop them is looked at as in release().
create or replace function flow_begin(me uuid, ids uuid[]) returns setof uuid language plpgsql volatile as $$
declare
  q record;
  f workflow_flow;
  o record;
begin
  perform lock_gate();
  perform 1 from workflow_queue x where x.instance_id = any(ids) and x.worker = me
  order by x.instance_id for no key update;
  for q in select x.instance_id, x.watched, x.reason from workflow_queue x
           where x.instance_id = any(ids) and x.worker = me
           order by x.priority, x.since, x.instance_id
  loop
    select * into f from workflow_flow x where x.instance_id = q.instance_id;
    continue when not found;
    select * into o from flow_obstacle(f);
    if o.why is null and f.anew then
      o.until := business_now();
    end if;
    if o.why is not null or f.anew then
      update workflow_flow x set anew = null where x.instance_id = q.instance_id and x.anew;
      delete from workflow_inbox b where b.instance_id = q.instance_id and b.kind = 'resume';
      update workflow_queue x
      set worker = null, state = 'pending', reason = o.why,
          due = case when x.watched and stop_pending(x.instance_id) then clock_timestamp()
                     else real_of(o.until) + interval '1 ms' end
      where x.instance_id = q.instance_id;
      continue;
    end if;
    if not f.begun and f.rate_key is not null then
      perform rate_put(f, business_now(), true);
    end if;
    if not f.begun then
      if f.slot_key is null and f.family is null then
        delete from workflow_flow x where x.instance_id = q.instance_id;
      else
        update workflow_flow x set begun = true, gather = null, behind = null
        where x.instance_id = q.instance_id;
      end if;
      update workflow_queue x
      set reason = null, flow = case when f.slot_key is not null then 2
                                     when f.family is not null then 1 else 0 end
      where x.instance_id = q.instance_id;
    end if;
  end loop;
  return query select w.id from unnest(ids) w(id)
               where not exists (select from workflow_queue x
                                 where x.instance_id = w.id and x.worker = me);
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
