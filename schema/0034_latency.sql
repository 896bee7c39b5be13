-- database: engine
-- What an idle engine does for its readiness, made cheap; and who has to look is told, so that nobody
-- need look often.

-- Whoever follows what is in force hears that it has changed.
create function stamp_changed() returns trigger language plpgsql as $$
begin
  notify versions;
  return null;
end $$;
create trigger stamp_changed after update on workflow_stamp
  for each statement execute function stamp_changed();

-- Removes a worker whose lease ran out at this beat, or, when we know that its process is gone
-- (the beat is null), whatever its lease. Its instances are free again, and whoever runs instances is
-- told: it may be another role that looks after the dead. How many; null: not removed.
create or replace function takeover(dead uuid, seen bigint) returns bigint
language plpgsql volatile as $$
declare
  released bigint;
begin
  delete from workflow_workers w
  where w.id = dead and (seen is null or (w.beat = seen and w.until < clock_timestamp()));
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

-- Whether it is this worker that detects. While the turn is ours for some time yet, nothing is
-- written: a look at nothing is then no transaction that has to be made durable.
create or replace function detect_turn(me uuid, so_far timestamptz default null) returns boolean
language plpgsql volatile as $$
begin
  if exists (select from detector d where d.worker = me
               and d.until > clock_timestamp() + interval '10 s'
               and (so_far is null or d.reached >= so_far)) then
    return true;
  end if;
  update detector d set worker = me, until = clock_timestamp() + interval '15 s',
         reached = greatest(d.reached, so_far)
  where d.worker = me or d.worker is null or d.until < clock_timestamp()
     or not exists (select from workflow_workers w where w.id = d.worker);
  return found;
end $$;

-- In PL/pgSQL, whose plans are kept. They may be made on empty tables and must be right for full ones.
create or replace function read_arrivals(n int) returns json language plpgsql stable
set enable_seqscan = off set enable_sort = off as $$
begin
  return (
    select coalesce(json_agg(json_build_object('id', a.id, 'type', a.type, 'entity', a.entity,
             'entity_id', a.entity_id, 'at', fact_time(a.at), 'payload', a.payload, 'trace', a.trace)
             order by a.id), '[]')
    from (select * from arrivals order by id limit n) a);
end $$;

create or replace function read_retries(n int) returns json language plpgsql stable
set enable_seqscan = off set enable_sort = off as $$
begin
  return (
    select coalesce(json_agg(json_build_object('id', d.id, 'rule', d.rule, 'workflow', d.workflow,
             'change', d.change, 'event', e.payload, 'at', fact_time(e.at)) order by d.id), '[]')
    from (select * from detect_errors where resolved_at is null and again order by id limit n) d
    left join events e on e.id = d.event_id);
end $$;
