-- database: engine
-- Flow control: rate, concurrency, debounce, batch, family. Every decision is made under the gate: at
-- a start by the unit that detects it, later by flow_begin(), which an instance asks before its body
-- runs, and flow_left(), which is told whenever it is given back or has ended. What waits is an
-- instance like any other, `pending`, so that its key, its stops and commands just work. Nothing is
-- counted: what there is are rows, and they are held by instances.

-- 0: nothing here concerns it; 1: its end is told; 2: it also asks before it goes on.
alter table workflow_queue add column flow smallint not null default 0;

-- skipped: it didn't start; merged: another instance has its event; delayed: it began later.
alter table workflow_skips add column outcome text not null default 'skipped',
  add column instance_id uuid;

-- What flow control keeps of a live instance.
create table workflow_flow (
  instance_id uuid primary key,
  workflow text not null,
  mode text not null,
  begun boolean not null default false,
  begin_at timestamptz,                  -- business time; not before
  gather text,                           -- 'debounce', 'batch': it is open for further events
  gather_key text,
  gathered int not null default 1,
  gather_max int,
  latest timestamptz,                    -- debounce: begin_at isn't moved beyond
  family text,                           -- 'estimate customer:9'
  priority smallint not null default 2,
  since bigint not null default 0,       -- its age, as in the queue
  behind uuid[],                         -- of its family: these have to end first
  rate_key text,
  rate_limit int,
  rate_per json,                         -- {days, seconds, zone}
  slot_key text,
  slot_limit int,
  hold boolean not null default false,   -- a wait keeps the slot
  slot int,                              -- the one it holds
  waits boolean not null default false   -- for a slot
);
create unique index workflow_flow_slots on workflow_flow (workflow, mode, slot_key, slot)
  where slot is not null;
create index workflow_flow_waiting
  on workflow_flow (workflow, mode, slot_key, priority, since, instance_id) where waits;
create unique index workflow_flow_gathering on workflow_flow (workflow, mode, gather_key)
  where gather is not null;
create index workflow_flow_family on workflow_flow (family, mode) where family is not null;

-- Starts that count for a rate: those that were, and the times that are promised to those that wait.
create table workflow_rate_starts (
  workflow text not null,
  mode text not null,
  key text not null,
  at timestamptz not null,               -- business time
  instance_id uuid not null,
  begun boolean not null,
  until timestamptz not null,            -- it doesn't count any more
  primary key (workflow, mode, key, at, instance_id)
);
create index workflow_rate_starts_instance on workflow_rate_starts (instance_id) where not begun;
create index workflow_rate_starts_until on workflow_rate_starts (until);

-- The events of a batch.
create table workflow_batches (
  instance_id uuid not null,
  settled bigint not null,
  event_id uuid not null,
  primary key (instance_id, settled)
);
create index workflow_batches_event on workflow_batches (event_id);

-- A start as detection asks for it, with its event.
create type workflow_start as (
  instance uuid, event uuid, workflow text, definition int, key text, if_running text,
  priority smallint, shadow boolean, again boolean, stops json, parent uuid, detached boolean,
  refused text, flow json, settled bigint, at timestamptz, customer_id bigint, entity text,
  entity_id text, mode text);

-- A duration later: days by the calendar of its zone, the rest exactly.
create function span_after(at timestamptz, span json) returns timestamptz language sql immutable as $$
  select case when (span->>'days')::int = 0 then at
              else (at at time zone (span->>'zone') + make_interval(days => (span->>'days')::int))
                   at time zone (span->>'zone') end
         + make_interval(secs => (span->>'seconds')::int)
$$;

create function flow_row(workflow text, event uuid, outcome text, reason text, instance uuid,
                         detail jsonb default '{}') returns void language sql volatile as $$
  insert into workflow_skips (workflow, event_id, outcome, reason, instance_id, detail, at)
  values (workflow, event, outcome, reason, instance, detail::json, business_now())
  on conflict do nothing
$$;

-- Why an instance that is pending hasn't begun, for people.
create function flow_reason(code text, message text, until timestamptz default null) returns json
language sql volatile as $$
  select json_strip_nulls(json_build_object('code', code, 'message',
           message || coalesce(' until ' || utc(until), ''), 'until', utc(until),
           'since', utc(business_now()), 'can', json_build_array('cancel')))
$$;

-- Whose child an instance is, and so on up.
create function ancestors(instance uuid) returns uuid[] language sql stable as $$
  with recursive up as (
    select i.parent_id as id, 1 as depth from workflow_instances i where i.id = instance
    union all
    select i.parent_id, up.depth + 1 from up join workflow_instances i on i.id = up.id
    where up.depth < 100)
  select coalesce(array_agg(up.id), '{}') from up where up.id is not null
$$;

-- Rate -------------------------------------------------------------------------------------------

-- Those that count at a time: the starts before it whose window holds it, at most n.
create function rate_count(f workflow_flow, wanted timestamptz, begun_only boolean, n int)
returns int language plpgsql stable as $$
begin
  return (
    select count(*)
    from (select from workflow_rate_starts x
          where x.workflow = f.workflow and x.mode = f.mode and x.key = f.rate_key
            and x.at <= wanted and x.until > wanted
            and x.at > wanted - (span_after(wanted, f.rate_per) - wanted) - interval '2 days'
            and x.instance_id <> f.instance_id and (x.begun or not begun_only)
          order by x.at desc limit n) x);
end $$;

-- The first time, not before `wanted`, at which one more may start: then, if no window that holds it
-- gets more than the limit, by what was and by what is promised; else behind all that is promised.
create function rate_next(f workflow_flow, wanted timestamptz) returns timestamptz
language plpgsql stable as $$
declare
  beyond timestamptz := span_after(wanted, f.rate_per);
  before int := rate_count(f, wanted, false, f.rate_limit);
  crowded boolean := before >= f.rate_limit;
  last_one timestamptz;
  nth timestamptz;
begin
  if not crowded and before + (
       select count(*) from (
         select from workflow_rate_starts x
         where x.workflow = f.workflow and x.mode = f.mode and x.key = f.rate_key
           and x.at > wanted and x.at < beyond and x.instance_id <> f.instance_id
         limit f.rate_limit) x) >= f.rate_limit then
    select exists (
      select from (
        select r.until, lead(r.at, f.rate_limit) over (order by r.at) as follows
        from (select x.at, x.until from workflow_rate_starts x
              where x.workflow = f.workflow and x.mode = f.mode and x.key = f.rate_key
                and x.instance_id <> f.instance_id
                and x.at > wanted - (beyond - wanted) - interval '2 days' and x.at < beyond
              union all select wanted, beyond) r) w
      where w.follows < w.until) into crowded;
  end if;
  if not crowded then
    return wanted;
  end if;
  select x.at into last_one from workflow_rate_starts x
  where x.workflow = f.workflow and x.mode = f.mode and x.key = f.rate_key
    and x.instance_id <> f.instance_id
  order by x.at desc limit 1;
  select x.until into nth from workflow_rate_starts x
  where x.workflow = f.workflow and x.mode = f.mode and x.key = f.rate_key
    and x.instance_id <> f.instance_id
  order by x.at desc offset f.rate_limit - 1 limit 1;
  return greatest(wanted, last_one, nth);
end $$;

-- One row for an instance; what doesn't count any more goes.
create function rate_put(f workflow_flow, wanted timestamptz, started boolean) returns void
language plpgsql volatile as $$
declare
  long_ago timestamptz := business_now() - interval '2 days';
begin
  delete from workflow_rate_starts x where x.instance_id = f.instance_id and not x.begun;
  delete from workflow_rate_starts x
  where x.workflow = f.workflow and x.mode = f.mode and x.key = f.rate_key and x.begun
    and x.at < long_ago and x.until < long_ago;
  insert into workflow_rate_starts (workflow, mode, key, at, instance_id, begun, until)
  values (f.workflow, f.mode, f.rate_key, wanted, f.instance_id, started,
          span_after(wanted, f.rate_per));
end $$;

-- Whether one may start now by what has started, and not by what is promised to others: their turn
-- may have passed while nobody was at work.
create function rate_free(f workflow_flow) returns boolean language plpgsql volatile as $$
begin
  return rate_count(f, business_now(), true, f.rate_limit) < f.rate_limit;
end $$;

-- Slots ------------------------------------------------------------------------------------------

-- The lowest free slot is this instance's, or null: all are held.
create function slot_take(f workflow_flow) returns int language plpgsql volatile as $$
declare
  held int[];
  n int := 1;
begin
  held := array(select x.slot from workflow_flow x
                where x.workflow = f.workflow and x.mode = f.mode and x.slot_key = f.slot_key
                  and x.slot is not null order by 1);
  if cardinality(held) >= f.slot_limit then
    return null;
  end if;
  while n = any(held) loop
    n := n + 1;
  end loop;
  update workflow_flow x set slot = n, waits = false where x.instance_id = f.instance_id;
  return n;
end $$;

-- It leaves the queue of what is due until a slot is free.
create function slot_wait(f workflow_flow, event uuid) returns void language plpgsql volatile as $$
begin
  update workflow_flow x set waits = true where x.instance_id = f.instance_id;
  update workflow_queue q
  set due = null, reason = flow_reason('concurrency',
        f.slot_limit || case f.slot_limit when 1 then ' is' else ' are' end
        || ' at work: waits for a place')
  where q.instance_id = f.instance_id;
  perform flow_row(f.workflow, event, 'delayed', 'concurrency', f.instance_id);
end $$;

-- Takes the slot from an instance and gives it to the next that waits: by priority, then age. What is
-- paused, stuck or about to be stopped doesn't get one. There may be very many that wait: they are
-- looked at one by one, in the order of their index.
create function slot_pass(f workflow_flow) returns void language plpgsql volatile as $$
declare
  heir record;
  held int;
begin
  update workflow_flow x set slot = null where x.instance_id = f.instance_id;
  select count(*) into held from workflow_flow x
  where x.workflow = f.workflow and x.mode = f.mode and x.slot_key = f.slot_key
    and x.slot is not null;
  for heir in
    select x.instance_id, x.slot_limit from workflow_flow x
    where x.workflow = f.workflow and x.mode = f.mode and x.slot_key = f.slot_key and x.waits
    order by x.priority, x.since, x.instance_id
  loop
    continue when heir.slot_limit <= held;
    update workflow_queue q set due = clock_timestamp(), reason = null
    where q.instance_id = heir.instance_id and q.worker is null and q.due is null
      and q.state = 'pending';
    if found then
      update workflow_flow x set slot = f.slot, waits = false
      where x.instance_id = heir.instance_id;
      return;
    end if;
  end loop;
end $$;

-- Before and after the body ----------------------------------------------------------------------

-- Why an instance may not go on now, or null: it may, and holds what it needs. `until` is when to ask
-- again, null when somebody else's end is awaited.
create function flow_obstacle(f workflow_flow, out why json, out until timestamptz)
language plpgsql volatile as $$
declare
  event uuid;
begin
  if not f.begun and f.behind is not null
     and exists (select from workflow_queue b where b.instance_id = any(f.behind)) then
    why := flow_reason('family', 'another of its family is being stopped first');
  elsif not f.begun and f.begin_at > business_now() then
    until := f.begin_at;
    why := flow_reason(coalesce(f.gather, 'later'), 'waits for more of the same', until);
  elsif not f.begun and f.rate_key is not null and not rate_free(f) then
    until := rate_next(f, business_now());
    perform rate_put(f, until, false);
    why := flow_reason('rate', f.rate_limit || ' have started: waits', until);
  end if;
  if why is not null then
    if f.slot is not null then
      perform slot_pass(f);
    end if;
    select i.event_id into event from workflow_instances i where i.id = f.instance_id;
    perform flow_row(f.workflow, event, 'delayed', why->>'code', f.instance_id,
                     jsonb_strip_nulls(jsonb_build_object('until', why->'until')));
  elsif f.slot_key is not null and f.slot is null and slot_take(f) is null then
    select i.event_id into event from workflow_instances i where i.id = f.instance_id;
    perform slot_wait(f, event);
    select q.reason into why from workflow_queue q where q.instance_id = f.instance_id;
  end if;
end $$;

-- Asked before the body of these instances goes on; a unit with other rows has the gate already.
-- Returns those that this worker doesn't hold: also those that may not go on, which are given back
-- here. What was to stop them is looked at as in release().
create function flow_begin(me uuid, ids uuid[]) returns setof uuid language plpgsql volatile as $$
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
    if o.why is not null then
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

-- Told in the transaction in which these were given back or ended: by their worker, or by whoever else
-- takes an instance out of work, with the gate locked before any of their rows. What a worker holds is
-- left alone.
create function flow_left(ids uuid[]) returns void language plpgsql volatile as $$
declare
  f workflow_flow;
  q record;
begin
  if not exists (select from workflow_flow x where x.instance_id = any(ids)) then
    return;
  end if;
  perform lock_gate(); -- nothing when it is locked, as it should be
  for f in select * from workflow_flow x where x.instance_id = any(ids) order by x.instance_id loop
    select x.worker, x.state into q from workflow_queue x where x.instance_id = f.instance_id;
    if found then
      if q.worker is null and f.slot is not null
         and (not f.hold or q.state in ('stuck', 'paused')) then
        perform slot_pass(f);
      end if;
      continue;
    end if;
    if f.slot is not null then
      perform slot_pass(f);
    end if;
    delete from workflow_flow x where x.instance_id = f.instance_id;
    delete from workflow_rate_starts x where x.instance_id = f.instance_id and not x.begun;
    delete from workflow_batches b where b.instance_id = f.instance_id;
    if f.family is not null then
      update workflow_queue x set due = clock_timestamp()
      where x.worker is null and x.due is null and x.state = 'pending' and x.queued_key is null
        and x.instance_id = any(array(
          select w.instance_id from workflow_flow w
          where w.family = f.family and w.mode = f.mode and f.instance_id = any(w.behind)
          order by w.instance_id));
    end if;
  end loop;
end $$;

-- Gathering --------------------------------------------------------------------------------------

-- The event of a batch: the first, with all of them by time.
create function batch_event(instance uuid) returns void language plpgsql volatile as $$
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
end $$;

-- When an instance that gathers begins, now that there is one event more.
create function gather_moved(f workflow_flow, wanted timestamptz) returns void
language plpgsql volatile as $$
declare
  begins timestamptz := wanted;
begin
  if f.rate_key is not null then
    begins := rate_next(f, wanted);
    perform rate_put(f, begins, false);
  end if;
  update workflow_flow x set begin_at = begins where x.instance_id = f.instance_id;
  -- One that a worker holds is about to ask whether it may begin.
  update workflow_queue x
  set due = real_of(begins) + interval '1 ms',
      reason = case when begins > wanted
                    then flow_reason('rate', f.rate_limit || ' have started: waits', begins)
                    when begins > business_now()
                    then flow_reason(f.gather, 'waits for more of the same', begins) end
  where x.instance_id = f.instance_id and x.worker is null and x.state = 'pending'
    and x.queued_key is null and f.behind is null;
end $$;

-- A newer event takes the place of the one that waits. False: its key is another's.
create function debounce_take(s workflow_start, f workflow_flow, q workflow_queue) returns boolean
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
  s.instance := f.instance_id;
  perform settle_subscribe(s);
  return true;
end $$;

-- Gives a start's event to the instance that is gathering its key. False: none is.
create function settle_gathered(s workflow_start) returns boolean language plpgsql volatile as $$
declare
  kind text := case when s.flow->'debounce' is not null then 'debounce' else 'batch' end;
  f workflow_flow;
  q workflow_queue;
  older record;
begin
  select * into f from workflow_flow x
  where x.workflow = s.workflow and x.mode = s.mode and x.gather is not null
    and x.gather_key = key_today(s.flow->kind->>'key');
  if not found then
    return false;
  end if;
  select * into q from workflow_queue x where x.instance_id = f.instance_id for no key update;
  if not found or f.gather <> kind or q.state = 'stopping' or q.reason->'stopping' is not null
     or (q.watched and stop_pending(q.instance_id)) then
    -- It ends: the event begins another, behind it.
    update workflow_flow x set gather = null where x.instance_id = f.instance_id;
    return false;
  end if;
  if kind = 'batch' then
    insert into workflow_batches (instance_id, settled, event_id)
    values (f.instance_id, s.settled, s.event) on conflict do nothing;
    perform flow_row(s.workflow, s.event, 'merged', kind, f.instance_id);
    update workflow_queue x set since = s.settled where x.instance_id = f.instance_id;
    update workflow_flow x set gathered = x.gathered + 1 where x.instance_id = f.instance_id
    returning * into f;
    if f.gathered >= f.gather_max then
      update workflow_flow x set gather = null where x.instance_id = f.instance_id;
      perform gather_moved(f, business_now());
    end if;
    return true;
  end if;
  select e.id, e.at into older from workflow_instances i join events e on e.id = i.event_id
  where i.id = f.instance_id;
  if s.at < older.at then
    perform flow_row(s.workflow, s.event, 'merged', kind, f.instance_id,
                     jsonb_build_object('by', older.id));
  elsif debounce_take(s, f, q) then
    update workflow_skips k set outcome = 'merged', detail = json_build_object('by', s.event)
    where k.workflow = s.workflow and k.event_id = older.id and k.reason = kind;
    perform flow_row(s.workflow, s.event, 'delayed', kind, f.instance_id);
  else
    perform flow_row(s.workflow, s.event, 'skipped', 'key taken', f.instance_id);
    return true;
  end if;
  perform gather_moved(f, least(span_after(business_now(), s.flow->kind->'quiet'), f.latest));
  return true;
end $$;

-- Starts -----------------------------------------------------------------------------------------

-- What the family says of a newcomer: null, or the reason to skip it. Those that it replaces are
-- asked to stop; it waits for their end.
create function settle_family(s workflow_start, key text, inout f workflow_flow, out holder uuid)
language plpgsql volatile as $$
declare
  mates uuid[];
  kin uuid[] := '{}';
  mate record;
begin
  f.family := (s.flow->'family'->>'name') || ' ' || key_today(s.flow->'family'->>'customer');
  if s.parent is not null then
    kin := s.parent || ancestors(s.parent);
  end if;
  perform 1 from workflow_queue q
  where q.instance_id in (select x.instance_id from workflow_flow x
                          where x.family = f.family and x.mode = f.mode)
  order by q.instance_id for no key update;
  for mate in
    select x.instance_id, x.priority,
           q.state = 'stopping' or q.reason->'stopping' is not null
             or exists (select from stop_candidates(array[x.instance_id]) c where not c.judged)
             as stopping
    from workflow_flow x join workflow_queue q on q.instance_id = x.instance_id
    where x.family = f.family and x.mode = f.mode and x.instance_id <> all(kin)
      -- The same key's own rule says what becomes of it.
      and (s.if_running = 'skip' or key is null
           or key is distinct from coalesce(q.business_key, q.queued_key))
    order by x.instance_id
  loop
    if not mate.stopping and mate.priority <= s.priority then
      holder := mate.instance_id;
      return;
    end if;
    mates := mates || mate.instance_id;
  end loop;
  if mates is not null then
    perform stop_instance(m.id, 'replaced', s.event) from unnest(mates) m(id);
    f.behind := mates;
    perform flow_row(s.workflow, s.event, 'delayed', 'family', s.instance,
                     jsonb_build_object('family', f.family, 'instances', to_jsonb(mates)));
  end if;
end $$;

-- What flow control says of a start: f is what is kept of it, `skipped` why it doesn't start. It may
-- be due later than it was.
create function settle_flow(s workflow_start, inout q workflow_queue, out f workflow_flow,
                            out skipped text, out detail jsonb)
language plpgsql volatile as $$
declare
  kind text := case when s.flow->'debounce' is not null then 'debounce'
                    when s.flow->'batch' is not null then 'batch' end;
  g json := s.flow->kind;
  rate json := s.flow->'rate';
  slots json := s.flow->'concurrency';
  now_ timestamptz := business_now();
  mate record;
begin
  f := null;
  f.instance_id := s.instance;
  f.workflow := s.workflow;
  f.mode := s.mode;
  f.begun := false;
  f.gathered := 1;
  f.priority := s.priority;
  f.since := s.settled;
  f.hold := coalesce((slots->>'hold')::boolean, false);
  f.waits := false;
  f.slot_key := key_today(slots->>'key');
  f.slot_limit := (slots->>'limit')::int;
  if s.if_running = 'skip' then
    perform 1 from workflow_queue x where x.business_key = q.business_key for no key update;
    if found then
      return; -- its key is taken, and that says it all
    end if;
  end if;
  if kind is not null then
    f.gather := kind;
    f.gather_key := key_today(g->>'key');
    f.gather_max := (g->>'max')::int;
    f.latest := span_after(now_, g->'latest');
    f.begin_at := least(span_after(now_, coalesce(g->'quiet', g->'within')), f.latest);
    if f.gather_max = 1 then
      f.gather := null;
      f.begin_at := null;
    end if;
  end if;
  if rate is not null then
    f.rate_key := key_today(rate->>'key');
    f.rate_limit := (rate->>'limit')::int;
    f.rate_per := rate->'per';
    if rate->>'over' = 'skip' and rate_next(f, coalesce(f.begin_at, now_))
                                  > coalesce(f.begin_at, now_) then
      skipped := 'rate';
      detail := rate::jsonb;
      return;
    end if;
  end if;
  if s.flow->'family' is not null then
    mate := settle_family(s, q.business_key, f);
    f := mate.f;
    if mate.holder is not null then
      skipped := 'family';
      detail := jsonb_build_object('family', f.family, 'instance', mate.holder);
      return;
    end if;
  end if;
  q.flow := 2;
  if kind is null and rate->>'over' = 'skip' and f.behind is null and slots is null then
    q.flow := case when f.family is not null then 1 else 0 end;
    f.begun := true;
  elsif kind is null and rate is null and slots is null and f.behind is null then
    q.flow := 1;
    f.begun := true;
  end if;
end $$;

-- Keeps what settle_flow() found, of an instance that is in the queue.
create function settle_flow_kept(s workflow_start, f workflow_flow) returns void
language plpgsql volatile as $$
declare
  q workflow_queue;
  wanted timestamptz := coalesce(f.begin_at, business_now());
  code text := coalesce(f.gather, 'rate');
  skips boolean := s.flow->'rate'->>'over' = 'skip';
begin
  select * into q from workflow_queue x where x.instance_id = s.instance;
  if f.rate_key is not null and skips then
    perform rate_put(f, wanted, true);
    f.rate_key := null; -- that was its start
  elsif f.rate_key is not null and q.queued_key is null and f.behind is null then
    wanted := rate_next(f, wanted);
    perform rate_put(f, wanted, false);
  end if;
  if q.flow = 0 then
    return;
  end if;
  insert into workflow_flow select f.*;
  if f.slot_key is not null and f.rate_key is null and f.gather is null and f.behind is null
     and q.queued_key is null and q.state = 'pending' and slot_take(f) is null then
    perform slot_wait(f, s.event);
  end if;
  if f.gather = 'batch' then
    insert into workflow_batches (instance_id, settled, event_id)
    values (s.instance, s.settled, s.event);
  end if;
  if f.behind is not null then
    update workflow_queue x set due = null, reason = flow_reason('family',
      'another of its family is being stopped first')
    where x.instance_id = s.instance and x.state = 'pending';
  elsif wanted > business_now() and q.queued_key is null then
    update workflow_queue x
    set due = real_of(wanted) + interval '1 ms',
        reason = flow_reason(code, case code when 'rate' then f.rate_limit || ' have started: waits'
                                             else 'waits for more of the same' end, wanted)
    where x.instance_id = s.instance and x.state = 'pending';
  end if;
  if f.begin_at is not null or wanted > business_now() then
    perform flow_row(s.workflow, s.event, 'delayed', code, s.instance,
                     jsonb_build_object('until', utc(wanted)));
  end if;
end $$;

create or replace function queue_start(q workflow_queue) returns boolean
language plpgsql volatile as $$
begin
  insert into workflow_queue (instance_id, workflow_definition_id, event_id, priority, due, since,
                              watched, business_key, queued_key, parent_id, flow)
  values (q.instance_id, q.workflow_definition_id, q.event_id, q.priority, q.due, q.since,
          q.watched, q.business_key, q.queued_key, q.parent_id, q.flow)
  on conflict (business_key) do nothing;
  return found;
end $$;

-- A start found its key taken. The holder's row is locked first: it ends either before (then the key
-- is free) or after this transaction (then its end sees who queues behind it).
create or replace function settle_taken(instance uuid, workflow text, key text, if_running text,
                                        event uuid, queue workflow_queue) returns text
language plpgsql volatile as $$
declare
  holder uuid;
  rest uuid[];
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
      returning q.instance_id)
    select array_agg(g.instance_id) into rest from gone g;
    if rest is not null then
      update workflow_instances i
      set state = 'stopped', reason = 'replaced', finished_at = business_now()
      where i.id = any(rest);
      delete from workflow_subscriptions s where s.instance_id = any(rest);
      delete from workflow_inbox b where b.instance_id = any(rest);
      perform flow_left(rest);
    end if;
  end if;
  queue.business_key := null;
  queue.queued_key := key;
  queue.due := null;
  perform queue_start(queue);
  return 'queued';
end $$;

-- The stops of a start.
create function settle_subscribe(s workflow_start) returns void language plpgsql volatile as $$
begin
  insert into workflow_subscriptions (instance_id, kind, type, key, since, judged)
  select s.instance, 'stop', w.type, key_today(w.key), s.settled, bool_or(w.judged)
  from json_to_recordset(s.stops) as w (type text, key text, judged boolean)
  group by w.type, key_today(w.key);
  perform settle_judged_back(s.instance, s.event, s.at, s.settled);
end $$;

-- A start looks back: a stop event not older than its trigger means that it isn't started. A stop
-- that Lua has to judge can't be decided here: the instance starts, and finds it among its candidates
-- before its first step.
create function settle_stopped(s workflow_start) returns boolean language plpgsql volatile as $$
declare
  stop record;
begin
  select k.event_id, k.type into stop
  from json_to_recordset(s.stops) as w (type text, key text, judged boolean)
  cross join lateral (select y.event_id, y.type, y.settled from event_keys y
                      where y.key = key_today(w.key) and y.type = w.type offset 0) k
  join events o on o.id = k.event_id
  where not w.judged and k.event_id <> s.event and o.at >= s.at
  order by k.settled limit 1;
  if found then
    perform flow_row(s.workflow, s.event, 'skipped', 'already stopped', null,
                     jsonb_build_object('by', stop.type, 'event', stop.event_id));
    return true;
  end if;
  return false;
end $$;

-- The instances that an event starts.
create or replace function settle_starts(list json, fresh uuid[]) returns json
language plpgsql volatile as $$
declare
  live boolean := exists (select from settings s where s.name = 'live' and s.value = 'on');
  now_business timestamptz := business_now();
  s workflow_start;
  q workflow_queue;
  f workflow_flow;
  told record;
  with_parent boolean := false;
  batched uuid[] := '{}';
  started bigint := 0;
  skipped bigint := 0;
  merged bigint := 0;
begin
  for s in
    select x.instance, x.event, x.workflow, x.definition, x.key, x.if_running, x.priority, x.shadow,
           x.again, x.stops, x.parent, x.detached, x.refused, x.flow, e.settled, e.at,
           e.customer_id, coalesce(x.of_entity, e.entity),
           case when x.of_entity is null then e.entity_id else x.of_id end,
           case when live and not x.shadow and coalesce(p.mode, 'live') = 'live' then 'live'
                else 'shadow' end
    from rows from (json_to_recordset(list) as (
           instance uuid, event uuid, workflow text, definition int, key text, if_running text,
           priority smallint, shadow boolean, again boolean, stops json, parent uuid,
           detached boolean, refused text, flow json, "of" text, of_id text)) with ordinality
         as x (instance, event, workflow, definition, key, if_running, priority, shadow, again,
               stops, parent, detached, refused, flow, of_entity, of_id, ord)
    join events e on e.id = x.event
    left join workflow_instances p on p.id = x.parent
    where x.event = any(fresh) or x.again
    order by x.ord
  loop
    if s.parent is not null then
      with_parent := true;
      continue when s.refused is not null
        or not child_may_start(s.instance, s.parent, s.detached, s.workflow, s.event);
    end if;
    continue when s.again and exists (select from workflow_instances i
                                      where i.event_id = s.event and i.workflow = s.workflow);
    if settle_stopped(s) then
      skipped := skipped + 1;
      continue;
    end if;
    if coalesce(s.flow->'debounce', s.flow->'batch') is not null then
      if s.flow->'batch' is not null then
        batched := batched || s.event;
      end if;
      if settle_gathered(s) then
        merged := merged + 1;
        continue;
      end if;
    end if;

    q := null;
    q.instance_id := s.instance;
    q.workflow_definition_id := s.definition;
    q.event_id := s.event;
    q.priority := s.priority;
    q.due := clock_timestamp();
    q.since := s.settled;
    q.watched := json_array_length(s.stops) > 0;
    q.parent_id := s.parent;
    q.business_key := s.workflow || ' ' || s.mode || ' ' || key_today(s.key);
    q.flow := 0;
    f := null;
    if s.flow is not null then
      told := settle_flow(s, q);
      q := told.q;
      f := told.f;
      if told.skipped is not null then
        perform flow_row(s.workflow, s.event, 'skipped', told.skipped, null, told.detail);
        skipped := skipped + 1;
        continue;
      end if;
    end if;
    if not queue_start(q)
       and settle_taken(s.instance, s.workflow, q.business_key, s.if_running, s.event, q)
           = 'skipped' then
      skipped := skipped + 1;
      continue;
    end if;

    insert into workflow_instances (id, workflow_definition_id, workflow, mode, event_id,
                                    customer_id, entity, entity_id, business_key, created_at,
                                    parent_id, detached)
    values (s.instance, s.definition, s.workflow, s.mode, s.event, s.customer_id, s.entity,
            s.entity_id, q.business_key, now_business, s.parent, s.detached);
    if q.watched then
      perform settle_subscribe(s);
    end if;
    if s.flow is not null then
      perform settle_flow_kept(s, f);
    end if;
    started := started + 1;
  end loop;
  if cardinality(batched) > 0 then
    perform batch_event(b.instance_id)
    from (select distinct x.instance_id from workflow_batches x
          where x.event_id = any(batched)) b;
  end if;
  if with_parent then
    perform children_not_started(list);
  end if;
  if merged > 0 then
    perform pg_notify('work', '');
  end if;
  return json_build_object('started', started, 'skipped', skipped, 'merged', merged);
end $$;

-- Merged customers -------------------------------------------------------------------------------

-- Of two that now gather the same: a debounce keeps the newer event, a batch all of them. The one that
-- is left over is asked to stop.
create function gather_merged(f workflow_flow, new_key text) returns void
language plpgsql volatile as $$
declare
  o workflow_flow;
begin
  select * into o from workflow_flow x
  where x.workflow = f.workflow and x.mode = f.mode and x.gather_key = new_key
    and x.gather is not null;
  if found and f.gather = 'debounce' and (
       select a.at > b.at from events a, events b
       where a.id = (select i.event_id from workflow_instances i where i.id = f.instance_id)
         and b.id = (select i.event_id from workflow_instances i where i.id = o.instance_id)) then
    update workflow_flow x set gather = null where x.instance_id = o.instance_id;
    perform stop_instance(o.instance_id, 'merged');
  elsif found then
    if f.gather = 'batch' then
      update workflow_batches b set instance_id = o.instance_id
      where b.instance_id = f.instance_id
        and not exists (select from workflow_batches x where x.instance_id = o.instance_id
                          and x.settled = b.settled);
      update workflow_flow x set gathered = (
        select count(*) from workflow_batches b where b.instance_id = o.instance_id)
      where x.instance_id = o.instance_id;
      perform batch_event(o.instance_id);
    end if;
    update workflow_flow x set gather = null, gather_key = new_key
    where x.instance_id = f.instance_id;
    perform stop_instance(f.instance_id, 'merged');
    return;
  end if;
  update workflow_flow x set gather_key = new_key where x.instance_id = f.instance_id;
end $$;

-- What counted for one customer counts for the one that it was merged into. Of two of one family that
-- of higher priority goes on, else the older.
create function flow_merged(old_key text, new_key text) returns void
language plpgsql volatile as $$
declare
  f workflow_flow;
  mate record;
begin
  update workflow_rate_starts x set key = new_key where x.key = old_key;
  update workflow_flow x set rate_key = new_key where x.rate_key = old_key;
  for f in select * from workflow_flow x where x.slot_key = old_key order by x.instance_id loop
    update workflow_flow x
    set slot_key = new_key,
        slot = case when f.slot is not null then 1 + coalesce((
                 select max(h.slot) from workflow_flow h
                 where h.workflow = f.workflow and h.mode = f.mode and h.slot_key = new_key), 0) end
    where x.instance_id = f.instance_id;
  end loop;
  for f in select * from workflow_flow x
           where x.gather_key = old_key and x.gather is not null order by x.instance_id loop
    perform gather_merged(f, new_key);
  end loop;
  for f in select * from workflow_flow x
           where right(x.family, length(old_key) + 1) = ' ' || old_key order by x.instance_id loop
    f.family := left(f.family, -length(old_key)) || new_key;
    for mate in select x.instance_id, x.priority from workflow_flow x
                where x.family = f.family and x.mode = f.mode
                  and x.instance_id <> all(ancestors(f.instance_id))
                  and f.instance_id <> all(ancestors(x.instance_id)) loop
      if (mate.priority, mate.instance_id) > (f.priority, f.instance_id) then
        perform stop_instance(mate.instance_id, 'merged');
      else
        perform stop_instance(f.instance_id, 'merged');
      end if;
    end loop;
    update workflow_flow x set family = f.family where x.instance_id = f.instance_id;
  end loop;
end $$;

-- One customer was merged into another: what is kept under its id goes on under the new one. Of two
-- instances that now have one key the younger is stopped, unless one of them was stopped above.
create or replace function settle_merged(gone bigint, kept bigint) returns void language plpgsql volatile as $$
declare
  old_key text := 'customer:' || gone;
  new_key text;
  target text;
  i record;
  other record;
  victim uuid;
begin
  select coalesce(a.new_id, kept) into kept
  from (select 1) one left join customer_alias a on a.old_id = kept;
  if kept = gone then
    return;
  end if;
  new_key := 'customer:' || kept;
  insert into customer_alias as a (old_id, new_id) values (gone, kept)
  on conflict (old_id) do update set new_id = excluded.new_id where a.new_id <> excluded.new_id;
  update customer_alias a set new_id = kept where a.new_id = gone;

  delete from event_keys k using event_keys o
  where k.key = old_key and o.key = new_key and o.type = k.type and o.settled = k.settled
    and o.event_id = k.event_id;
  update event_keys k set key = new_key where k.key = old_key;
  delete from workflow_subscriptions s using workflow_subscriptions o
  where s.key = old_key and o.key = new_key and o.instance_id = s.instance_id and o.kind = s.kind
    and o.branch = s.branch and o.ordinal = s.ordinal and o.type = s.type;
  update workflow_subscriptions s set key = new_key where s.key = old_key;

  perform flow_merged(old_key, new_key);

  for i in select q.instance_id, q.business_key, w.business_key as key
           from workflow_instances w join workflow_queue q on q.instance_id = w.id
           where w.customer_id = gone order by q.instance_id for no key update of q
  loop
    target := left(i.key, -length(old_key)) || new_key;
    if i.key is null or right(i.key, length(old_key) + 1) <> ' ' || old_key then
      continue;
    end if;
    select q.instance_id into other from workflow_queue q
    where q.business_key = target for no key update;
    if found and i.business_key is not null then
      victim := coalesce((
        select q.instance_id from workflow_queue q
        where q.instance_id in (i.instance_id, other.instance_id)
          and (q.state = 'stopping' or exists (select from workflow_inbox b
                 where b.instance_id = q.instance_id and b.kind = 'merged'))
        order by 1 desc limit 1), greatest(i.instance_id, other.instance_id));
      perform stop_instance(victim, 'merged');
      update workflow_queue q set business_key = null where q.instance_id = victim;
    end if;
    update workflow_queue q
    set business_key = case when q.business_key is not null then target end,
        queued_key = case when q.queued_key is not null then target end
    where q.instance_id = i.instance_id;
    update workflow_instances w set business_key = target where w.id = i.instance_id;
  end loop;
  update workflow_instances w set customer_id = kept where w.customer_id = gone;

  -- What was sent to one of them was sent to both.
  delete from message_once o using message_once k
  where o.who = old_key and k.who = new_key and k.what = o.what and k.shadow = o.shadow;
  update message_once o set who = new_key where o.who = old_key;
  -- What waits under the new key may have been settled already: it looks again.
  update workflow_queue q set due = clock_timestamp()
  where q.worker is null and q.state = 'waiting' and (q.due is null or q.due > clock_timestamp())
    and q.instance_id in (select s.instance_id from workflow_subscriptions s
                          join event_keys k on k.key = s.key and k.type = s.type
                            and k.settled > s.since
                          where s.key = new_key and s.kind = 'wait');
end $$;

-- Claiming ---------------------------------------------------------------------------------------

-- Made anew by a later file: it returns `flow` too.
drop function claim(uuid, int);
