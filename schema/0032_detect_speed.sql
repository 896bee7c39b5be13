-- database: engine
-- What settling a batch costs: its JSON is taken apart once, where each look at a member used to read
-- all of it again, and what is known of the new events goes on in arrays.

-- A key with the customer it means today: 'customer:1' after 1 was merged into 2 is 'customer:2'.
create or replace function key_today(key text) returns text language plpgsql stable as $$
declare
  merged bigint;
begin
  if left(key, 9) = 'customer:' and key ~ '^customer:[0-9]{1,18}$' then
    select a.new_id into merged from customer_alias a where a.old_id = substr($1, 10)::bigint;
  end if;
  return coalesce('customer:' || merged, key);
end $$;

-- Inserts what isn't known yet, with its keys. An event whose time is only that of the row's
-- modification is known when there is any of its type about its subject, if it came from an inserted
-- row ("weak"). A time by our own clock ("ours": when a deletion was noticed) is real time.
drop function settle_events(json, bigint);
create function settle_events(list json, base bigint, out fresh uuid[], out keys text[],
                              out types text[], out ids uuid[], out numbers bigint[])
language plpgsql volatile as $$
begin
  with e as materialized (
    select x.*, base + x.ord as settled
    from rows from (json_to_recordset(list) as (
      id uuid, type text, entity text, entity_id text, at timestamptz, noticed timestamptz,
      ours boolean, weak boolean, customer bigint, keys json, payload json)) with ordinality
      as x (id, type, entity, entity_id, at, noticed, ours, weak, customer, keys, payload, ord)
  ), inserted as (
    insert into events (id, type, entity, entity_id, at, noticed_at, settled, customer_id, payload)
    select e.id, e.type, e.entity, e.entity_id, case when e.ours then business_of(e.at) else e.at end,
           e.noticed, e.settled, e.customer, e.payload
    from e
    where not (coalesce(e.weak, false)
               and exists (select from events k where k.type = e.type and k.entity = e.entity
                             and k.entity_id = e.entity_id))
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

-- Tells the instances that wait for these events or are to be stopped by them. One that a worker
-- holds is told by its inbox alone: it asks before each step and each send, and when it is released.
-- The rows are locked in their order before it is looked at who holds them, so a release is either
-- before (and the instance is woken here) or after (and the release sees our events).
drop function settle_wakes(json, uuid[], bigint);
create function settle_wakes(keys text[], types text[], ids uuid[], numbers bigint[]) returns bigint
language plpgsql volatile as $$
declare
  wanted uuid[];
  stops uuid[];
  waits uuid[];
  woken bigint;
begin
  with m as materialized (
    select s.instance_id, s.kind, s.judged, e.id as event_id, e.settled
    from unnest(keys, types, ids, numbers) as e (key, type, id, settled)
    cross join lateral (select x.* from workflow_subscriptions x
                        where x.key = e.key and x.type = e.type and x.since < e.settled offset 0) s
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

drop function settle_errors(json, uuid[]);
create function settle_errors(raised json, resolved json, failed_again json, fresh uuid[])
returns bigint language plpgsql volatile as $$
declare
  n bigint;
begin
  insert into detect_errors (rule, workflow, entity, entity_id, event_id, change, message)
  select e.rule, e.workflow, e.entity, e.entity_id, e.event, e.change, e.message
  from json_to_recordset(raised) as e (rule text, workflow text, entity text, entity_id text,
                                       event uuid, change json, message text)
  where e.event is null or e.event = any(fresh);
  get diagnostics n = row_count;
  update detect_errors d set resolved_at = clock_timestamp(), again = false
  where d.id = any(array(select r.value::bigint from json_array_elements_text(resolved) r));
  update detect_errors d set again = false, message = r.message, at = clock_timestamp()
  from json_to_recordset(failed_again) as r (id bigint, message text) where d.id = r.id;
  return n;
end $$;

-- Settles what detection made of one batch. {events, starts, errors, arrivals, deleted, merged,
-- daily, resolved, failed_again}, all arrays, and the count of events; see lua/detect.lua. Returns
-- counts.
create or replace function settle(batch json) returns json language plpgsql volatile as $$
declare
  b record;
  news record;
  n bigint;
  base bigint;
  fresh uuid[] := '{}';
  woken bigint := 0;
  starts json := '{"started": 0, "skipped": 0}';
  raised bigint;
  gone bigint;
  m record;
begin
  select * into b from json_to_record(batch) as x (
    events json, starts json, errors json, arrivals json, deleted json, merged json, daily json,
    resolved json, failed_again json, event_count bigint);
  delete from arrivals a
  where a.id = any(array(select x.value::bigint from json_array_elements_text(b.arrivals) x));
  get diagnostics gone = row_count;
  if gone <> json_array_length(b.arrivals) then
    raise exception 'arrivals were settled by somebody else' using errcode = 'MWC01';
  end if;
  for m in select x.gone, x.kept from json_to_recordset(b.merged) as x (gone bigint, kept bigint)
  loop
    perform settle_merged(m.gone, m.kept);
  end loop;
  n := coalesce(b.event_count, json_array_length(b.events));
  if n > 0 then
    update gate g set settled = g.settled + n returning g.settled - n into base;
    select * into news from settle_events(b.events, base);
    fresh := news.fresh;
    if cardinality(fresh) > 0 then
      woken := settle_wakes(news.keys, news.types, news.ids, news.numbers);
    end if;
  end if;
  if json_array_length(b.starts) > 0 then
    starts := settle_starts(b.starts, fresh);
  end if;
  -- Behind the starts: what was made and deleted in one batch isn't followed up either.
  perform settle_deleted(b.deleted, fresh);
  raised := settle_errors(b.errors, b.resolved, b.failed_again, fresh);
  insert into daily_rules as d (rule, day)
  select x.rule, x.day from json_to_recordset(b.daily) as x (rule text, day date)
  on conflict (rule) do update set day = excluded.day where d.day < excluded.day;
  if woken > 0 or (starts->>'started')::bigint > 0 or json_array_length(b.deleted) > 0
     or json_array_length(b.merged) > 0 then
    perform pg_notify('work', '');
  end if;
  return json_build_object('events', cardinality(fresh), 'started', starts->'started',
                           'skipped', starts->'skipped', 'woken', woken, 'errors', raised);
end $$;
