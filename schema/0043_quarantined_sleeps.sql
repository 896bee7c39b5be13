-- database: engine
-- As before; and what is quarantined isn't woken to judge a stop: its `when` may be what kills.

create or replace function settle_wakes(keys text[], types text[], ids uuid[], numbers bigint[]) returns bigint
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
                  or (q.reason->>'code' is distinct from 'quarantined'
                      and exists (select from workflow_inbox b where b.instance_id = q.instance_id
                                    and b.kind = 'stop' and b.verdict is null)))));
  get diagnostics woken = row_count;
  return woken;
end $$;
