-- database: engine
-- How what was detected becomes true: events, their keys, the instances they start, the waits they
-- wake and the instances they stop are one transaction, settle(). It runs under the gate, which the
-- caller has locked in a statement before, so every statement in here sees the latest commit of
-- whoever settled events or registered a wait.

-- One row: which worker detects. It only saves double work; settling is safe with any number.
-- Everything that was noticed in a ServiceTitan database of its own until `reached` is settled.
create table detector (
  one boolean primary key default true check (one),
  worker uuid,
  until timestamptz not null default '-infinity',
  reached timestamptz not null default '-infinity'
);
insert into detector default values;

-- The last day (in the company's zone) on which a daily rule was asked.
create table daily_rules (
  rule text primary key,
  day date not null
);

-- Merged customers. With one database it is the table that the sync keeps.
create table if not exists customer_alias (
  old_id bigint primary key,
  new_id bigint not null,
  noticed_at timestamptz not null default now(),
  check (old_id <> new_id)
);

create function detect_turn(me uuid, so_far timestamptz default null) returns boolean
language plpgsql volatile as $$
begin
  update detector d set worker = me, until = clock_timestamp() + interval '15 s',
         reached = greatest(d.reached, so_far)
  where d.worker = me or d.worker is null or d.until < clock_timestamp()
     or not exists (select from workflow_workers w where w.id = d.worker);
  return found;
end $$;

create function detect_turn_over(me uuid) returns void language sql volatile as $$
  update detector set worker = null, until = '-infinity' where worker = me
$$;

-- Microseconds count: two facts of one second are two facts.
create function fact_time(at timestamptz) returns text language sql immutable as $$
  select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

create function read_arrivals(n int) returns json language sql stable as $$
  select coalesce(json_agg(json_build_object('id', a.id, 'type', a.type, 'entity', a.entity,
           'entity_id', a.entity_id, 'at', fact_time(a.at), 'payload', a.payload) order by a.id),
         '[]')
  from (select * from arrivals order by id limit n) a
$$;

-- What raised and is to be judged again: the change, or the event as it was settled.
create function read_retries(n int) returns json language sql stable as $$
  select coalesce(json_agg(json_build_object('id', d.id, 'rule', d.rule, 'workflow', d.workflow,
           'change', d.change, 'event', e.payload, 'at', fact_time(e.at)) order by d.id), '[]')
  from (select * from detect_errors where resolved_at is null and again order by id limit n) d
  left join events e on e.id = d.event_id
$$;

-- Judges open errors again, all of them when no ids are given. How many.
create function retry_detect_errors(ids bigint[] default null) returns bigint
language plpgsql volatile as $$
declare
  n bigint;
begin
  update detect_errors d set again = true
  where d.resolved_at is null and (ids is null or d.id = any(ids));
  get diagnostics n = row_count;
  if n > 0 then
    perform pg_notify('arrivals', '');
  end if;
  return n;
end $$;

-- Of the rows that a daily rule found, as [id, value of once] each, those that are no event yet and
-- whose time (the day after once) isn't before the entity's first import; at most n, with what of
-- them there is to come.
create function daily_new(rule text, of text, rows json, live_since timestamptz, n int)
returns json language sql stable as $$
  with asked as (
    select r.value->>0 as id, r.value->>1 as once,
           ((r.value->>1)::date + 1)::timestamp at time zone 'UTC' as at
    from json_array_elements(rows) r
    where r.value->>1 is not null
  ), fresh as (
    select a.id, a.once, row_number() over (order by a.at, a.id) as nth, count(*) over () as total
    from asked a
    where a.at >= coalesce(live_since, '-infinity')
      and not exists (select from events e where e.type = rule and e.entity = of
                        and e.entity_id = a.id and e.at = a.at offset 0)
  )
  select json_build_object('more', coalesce(max(f.total), 0) > n,
           'rows', coalesce(json_agg(json_build_object('id', f.id, 'once', f.once) order by f.nth)
                              filter (where f.nth <= n), '[]'))
  from fresh f
$$;

-- A key with the customer it means today: 'customer:1' after 1 was merged into 2 is 'customer:2'.
create function key_today(key text) returns text language sql stable as $$
  select coalesce((select 'customer:' || a.new_id from customer_alias a
                   where a.old_id = case when key ~ '^customer:[0-9]{1,18}$'
                                         then substr(key, 10)::bigint end), key)
$$;

-- Events -----------------------------------------------------------------------------------------

-- Inserts what isn't known yet. An event whose time is only that of the row's modification is known
-- when there is any of its type about its subject, if it came from an inserted row ("weak").
create function settle_events(list json, base bigint) returns uuid[]
language plpgsql volatile as $$
declare
  fresh uuid[];
begin
  with e as (
    select *
    from rows from (json_to_recordset(list) as (
      id uuid, type text, entity text, entity_id text, at timestamptz, noticed timestamptz,
      weak boolean, customer bigint, payload json)) with ordinality
      as x (id, type, entity, entity_id, at, noticed, weak, customer, payload, ord)
  ), inserted as (
    insert into events (id, type, entity, entity_id, at, noticed_at, settled, customer_id, payload)
    select e.id, e.type, e.entity, e.entity_id, e.at, e.noticed, base + e.ord, e.customer, e.payload
    from e
    where not (coalesce(e.weak, false)
               and exists (select from events k where k.type = e.type and k.entity = e.entity
                             and k.entity_id = e.entity_id))
    order by e.ord
    on conflict do nothing
    returning id
  )
  select coalesce(array_agg(i.id), '{}') into fresh from inserted i;

  insert into event_keys (key, type, settled, event_id)
  select distinct key_today(k.value), e.type, base + e.ord, e.id
  from rows from (json_to_recordset(list) as (id uuid, type text, keys json)) with ordinality
         as e (id, type, keys, ord)
  cross join lateral json_array_elements_text(e.keys) k
  where e.id = any(fresh)
  order by 1, 2
  on conflict do nothing;
  return fresh;
end $$;

-- Tells the instances that wait for these events or are to be stopped by them. One that a worker
-- holds is told by its inbox alone: it asks before each step and each send, and when it is released.
-- The rows are locked in their order before it is looked at who holds them, so a release is either
-- before (and the instance is woken here) or after (and the release sees our events).
create function settle_wakes(list json, fresh uuid[], base bigint) returns bigint
language plpgsql volatile as $$
declare
  wanted uuid[];
  stops uuid[];
  waits uuid[];
  woken bigint;
begin
  with m as materialized (
    select s.instance_id, s.kind, s.judged, e.id as event_id, base + e.ord as settled
    from rows from (json_to_recordset(list) as (id uuid, type text, keys json)) with ordinality
           as e (id, type, keys, ord)
    cross join lateral json_array_elements_text(e.keys) k
    cross join lateral (select x.* from workflow_subscriptions x
                        where x.key = key_today(k.value) and x.type = e.type
                          and x.since < base + e.ord offset 0) s
    where e.id = any(fresh)
  ), told as (
    insert into workflow_inbox (instance_id, event_id, kind, settled)
    select m.instance_id, m.event_id, m.kind, min(m.settled)
    from m
    where m.kind = 'stop'
       or exists (select from workflow_queue q where q.instance_id = m.instance_id
                    and q.worker is not null)
    group by 1, 2, 3 order by 1, 2, 3
    on conflict do nothing
  )
  select array_agg(distinct m.instance_id),
         array_agg(distinct m.instance_id) filter (where m.kind = 'stop' and not m.judged),
         array_agg(distinct m.instance_id) filter (where m.kind = 'wait' or m.judged)
  into wanted, stops, waits
  from m;
  if wanted is null then
    return 0;
  end if;
  perform 1 from workflow_queue q where q.instance_id = any(wanted)
  order by q.instance_id for no key update;
  -- A stop ends one that is stuck, paused or queued behind another too. One that is to be judged
  -- can't be judged without running it: it may wake what is stuck, not what has not begun.
  update workflow_queue q set due = clock_timestamp()
  where q.worker is null and (q.due is null or q.due > clock_timestamp())
    and (q.instance_id = any(stops)
         or (q.instance_id = any(waits) and q.queued_key is null
             and (q.state not in ('stuck', 'paused')
                  or exists (select from workflow_inbox b where b.instance_id = q.instance_id
                               and b.kind = 'stop' and b.verdict is null))));
  get diagnostics woken = row_count;
  return woken;
end $$;

-- Starts -----------------------------------------------------------------------------------------

-- False: its key is taken.
create function queue_start(q workflow_queue) returns boolean language plpgsql volatile as $$
begin
  insert into workflow_queue (instance_id, workflow_definition_id, event_id, priority, due, since,
                              watched, business_key, queued_key, parent_id)
  values (q.instance_id, q.workflow_definition_id, q.event_id, q.priority, q.due, q.since,
          q.watched, q.business_key, q.queued_key, q.parent_id)
  on conflict (business_key) do nothing;
  return found;
end $$;

-- A start found its key taken. The holder's row is locked first: it ends either before (then the key
-- is free) or after this transaction (then its end sees who queues behind it).
create function settle_taken(instance uuid, workflow text, key text, if_running text, event uuid,
                             queue workflow_queue) returns text language plpgsql volatile as $$
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
  if if_running = 'skip' then
    insert into workflow_skips (workflow, event_id, reason, detail, at)
    values (workflow, event, 'key taken', json_build_object('key', key, 'instance', holder),
            business_now())
    on conflict do nothing;
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
    end if;
  end if;
  queue.business_key := null;
  queue.queued_key := key;
  queue.due := null;
  perform queue_start(queue);
  return 'queued';
end $$;

-- The instances that an event starts. A start looks back: a stop event not older than its trigger
-- means that it isn't started. A stop that Lua has to judge can't be decided here: the instance
-- starts, and finds it among its candidates before its first step.
create function settle_starts(list json, fresh uuid[]) returns json language plpgsql volatile as $$
declare
  live boolean := exists (select from settings s where s.name = 'live' and s.value = 'on');
  now_business timestamptz := business_now();
  s record;
  q workflow_queue;
  stop record;
  taken text;
  with_parent boolean := false;
  started bigint := 0;
  skipped bigint := 0;
begin
  for s in
    select x.*, e.settled, e.at, e.customer_id, coalesce(x.of_entity, e.entity) as entity,
           case when x.of_entity is null then e.entity_id else x.of_id end as entity_id,
           case when live and not x.shadow and coalesce(p.mode, 'live') = 'live' then 'live'
                else 'shadow' end as mode
    from rows from (json_to_recordset(list) as (
           instance uuid, event uuid, workflow text, definition int, key text, if_running text,
           priority smallint, shadow boolean, again boolean, stops json, parent uuid,
           detached boolean, refused text, "of" text, of_id text)) with ordinality
         as x (instance, event, workflow, definition, key, if_running, priority, shadow, again,
               stops, parent, detached, refused, of_entity, of_id, ord)
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
    select k.event_id, k.type into stop
    from json_to_recordset(s.stops) as w (type text, key text, judged boolean)
    cross join lateral (select y.event_id, y.type, y.settled from event_keys y
                        where y.key = key_today(w.key) and y.type = w.type offset 0) k
    join events o on o.id = k.event_id
    where not w.judged and k.event_id <> s.event and o.at >= s.at
    order by k.settled limit 1;
    if found then
      insert into workflow_skips (workflow, event_id, reason, detail, at)
      values (s.workflow, s.event, 'already stopped',
              json_build_object('by', stop.type, 'event', stop.event_id), now_business)
      on conflict do nothing;
      skipped := skipped + 1;
      continue;
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
    if not queue_start(q) then
      taken := settle_taken(s.instance, s.workflow, q.business_key, s.if_running, s.event, q);
      if taken = 'skipped' then
        skipped := skipped + 1;
        continue;
      end if;
    end if;

    insert into workflow_instances (id, workflow_definition_id, workflow, mode, event_id,
                                    customer_id, entity, entity_id, business_key, created_at,
                                    parent_id, detached)
    values (s.instance, s.definition, s.workflow, s.mode, s.event, s.customer_id, s.entity,
            s.entity_id, q.business_key, now_business, s.parent, s.detached);
    if q.watched then
      insert into workflow_subscriptions (instance_id, kind, type, key, since, judged)
      select s.instance, 'stop', w.type, key_today(w.key), s.settled, bool_or(w.judged)
      from json_to_recordset(s.stops) as w (type text, key text, judged boolean)
      group by w.type, key_today(w.key);
      perform settle_judged_back(s.instance, s.event, s.at, s.settled);
    end if;
    started := started + 1;
  end loop;
  if with_parent then
    perform children_not_started(list);
  end if;
  return json_build_object('started', started, 'skipped', skipped);
end $$;

-- Stops that have to be judged and were settled before the trigger, though they are not older than
-- it: the subscription reaches back to them, and what else that uncovers isn't ours.
create function settle_judged_back(instance uuid, trigger uuid, trigger_at timestamptz,
                                   trigger_settled bigint) returns void
language plpgsql volatile as $$
declare
  back record;
begin
  for back in
    select s.type, s.key, min(k.settled) - 1 as since
    from workflow_subscriptions s
    cross join lateral (select y.event_id, y.settled from event_keys y
                        where y.key = s.key and y.type = s.type and y.settled <= trigger_settled
                        offset 0) k
    join events o on o.id = k.event_id
    where s.instance_id = instance and s.kind = 'stop' and s.judged and k.event_id <> trigger
      and o.at >= trigger_at
    group by s.type, s.key
  loop
    insert into workflow_inbox (instance_id, event_id, kind, settled, verdict)
    select instance, k.event_id, 'stop', k.settled, 'not ours'
    from event_keys k join events o on o.id = k.event_id
    where k.key = back.key and k.type = back.type and k.settled > back.since
      and k.settled <= trigger_settled and (o.at < trigger_at or k.event_id = trigger)
    on conflict do nothing;
    update workflow_subscriptions s set since = back.since
    where s.instance_id = instance and s.kind = 'stop' and s.type = back.type and s.key = back.key;
  end loop;
end $$;

-- Instances have ended: the oldest that queues behind each of their keys begins.
create or replace function instances_ended(ended uuid[]) returns void
language sql volatile as $$
  update workflow_queue q
  set business_key = q.queued_key, queued_key = null,
      due = case when q.worker is null then clock_timestamp() end
  where q.instance_id in (
    select (select w.instance_id from workflow_queue w
            where w.queued_key = k.key order by w.since, w.instance_id limit 1)
    from (select distinct i.business_key as key from workflow_instances i
          where i.id = any(ended) and i.business_key is not null
            and exists (select from workflow_queue w where w.queued_key = i.business_key)) k
    where not exists (select from workflow_queue h where h.business_key = k.key))
$$;

-- Deletions and merges ---------------------------------------------------------------------------

-- What is about a row that is gone ends.
create function settle_deleted(list json, fresh uuid[]) returns void
language plpgsql volatile as $$
begin
  perform stop_instance(x.id, 'deleted', x.event)
  from (select distinct on (i.id) i.id, d.event
        from json_to_recordset(list) as d (entity text, id text, event uuid)
        join events x on x.id = d.event
        join events e on e.entity = d.entity and e.entity_id = d.id and e.settled < x.settled
        join workflow_instances i on i.event_id = e.id
        where d.event = any(fresh) and i.finished_at is null
        order by i.id) x;
end $$;

-- One customer was merged into another: what is kept under its id goes on under the new one. Of two
-- instances that now have one key the younger is stopped.
create function settle_merged(gone bigint, kept bigint) returns void language plpgsql volatile as $$
declare
  old_key text := 'customer:' || gone;
  new_key text;
  target text;
  i record;
  other record;
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
      perform stop_instance(greatest(i.instance_id, other.instance_id), 'merged');
      update workflow_queue q set business_key = null
      where q.instance_id = greatest(i.instance_id, other.instance_id);
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

-- The unit ---------------------------------------------------------------------------------------

create function settle_errors(batch json, fresh uuid[]) returns bigint
language plpgsql volatile as $$
declare
  raised bigint;
begin
  with e as (
    select x.* from json_to_recordset(batch->'errors') as x (
      rule text, workflow text, entity text, entity_id text, event uuid, change json, message text)
    where x.event is null or x.event = any(fresh)
  ), written as (
    insert into detect_errors (rule, workflow, entity, entity_id, event_id, change, message)
    select e.rule, e.workflow, e.entity, e.entity_id, e.event, e.change, e.message from e
    returning 1
  )
  select count(*) into raised from written;
  update detect_errors d set resolved_at = clock_timestamp(), again = false
  where d.id in (select r.value::bigint from json_array_elements_text(batch->'resolved') r);
  update detect_errors d set again = false, message = r.message, at = clock_timestamp()
  from json_to_recordset(batch->'failed_again') as r (id bigint, message text) where d.id = r.id;
  return raised;
end $$;

-- Settles what detection made of one batch. {events, starts, errors, arrivals, deleted, merged,
-- daily, resolved, failed_again}, all arrays; see lua/detect.lua. Returns counts.
create function settle(batch json) returns json language plpgsql volatile as $$
declare
  n bigint := json_array_length(batch->'events');
  base bigint := 0;
  fresh uuid[] := '{}';
  woken bigint := 0;
  starts json := '{"started": 0, "skipped": 0}';
  raised bigint;
  gone bigint;
  m record;
begin
  delete from arrivals a
  where a.id = any(array(select x.value::bigint from json_array_elements_text(batch->'arrivals') x));
  get diagnostics gone = row_count;
  if gone <> json_array_length(batch->'arrivals') then
    raise exception 'arrivals were settled by somebody else' using errcode = 'MWC01';
  end if;
  for m in select x.gone, x.kept from json_to_recordset(batch->'merged') as x (gone bigint, kept bigint)
  loop
    perform settle_merged(m.gone, m.kept);
  end loop;
  if n > 0 then
    update gate g set settled = g.settled + n returning g.settled - n into base;
    fresh := settle_events(batch->'events', base);
    if cardinality(fresh) > 0 then
      woken := settle_wakes(batch->'events', fresh, base);
    end if;
  end if;
  if json_array_length(batch->'starts') > 0 then
    starts := settle_starts(batch->'starts', fresh);
  end if;
  -- Behind the starts: what was made and deleted in one batch isn't followed up either.
  perform settle_deleted(batch->'deleted', fresh);
  raised := settle_errors(batch, fresh);
  insert into daily_rules as d (rule, day)
  select x.rule, x.day from json_to_recordset(batch->'daily') as x (rule text, day date)
  on conflict (rule) do update set day = excluded.day where d.day < excluded.day;
  if woken > 0 or (starts->>'started')::bigint > 0 or json_array_length(batch->'deleted') > 0
     or json_array_length(batch->'merged') > 0 then
    perform pg_notify('work', '');
  end if;
  return json_build_object('events', cardinality(fresh), 'started', starts->'started',
                           'skipped', starts->'skipped', 'woken', woken, 'errors', raised);
end $$;
