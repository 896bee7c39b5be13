-- database: engine
-- What the worker processes say of themselves, what their deaths leave behind, and the questions of
-- /readyz and /metrics.

-- Every role's process has a row, renewed while it lives; only `workflow` holds work under it.
alter table workflow_workers add column name text;      -- sync, workflow, workflow-2, ...
alter table workflow_workers add column figures json;   -- what it counted in this life

drop function worker_enter(uuid, text, int, bigint, text, int);
create function worker_enter(me uuid, machine text, pid int, born bigint, role text, lease_ms int,
                             name text default null)
returns void language sql volatile as $$
  insert into workflow_workers (id, machine, pid, born, role, name, until)
  values (me, machine, pid, born, role, coalesce(name, role),
          clock_timestamp() + lease_ms * interval '1 ms')
  on conflict do nothing
$$;

-- The beat when the lease was still ours, else no row.
drop function worker_renew(uuid, int);
create function worker_renew(me uuid, lease_ms int, counted json default null) returns setof bigint
language sql volatile as $$
  update workflow_workers w
  set beat = w.beat + 1, until = clock_timestamp() + lease_ms * interval '1 ms',
      figures = coalesce(counted, w.figures)
  where w.id = me and w.until > clock_timestamp()
  returning w.beat
$$;

-- Deaths of workers while the Lua of an instance was running.
create table workflow_deaths (
  worker uuid primary key,
  instance_id uuid not null,
  how text not null,                     -- killed by signal 11 (Segmentation fault), ...
  at timestamptz not null default now()
);
create index workflow_deaths_instance on workflow_deaths (instance_id);

-- Few are stuck among many that sleep.
create index workflow_queue_stuck on workflow_queue ((reason->>'code')) where state = 'stuck';

-- The worker `dead` is known to be gone, and whose Lua it ran: that instance alone is to blame. The
-- third time it is set aside for a person; whatever else the dead one held is free again. A second
-- telling of the same death counts nothing.
create function bury(dead uuid, blamed uuid, how_ text) returns void language plpgsql volatile as $$
begin
  if exists (select from workflow_queue q where q.instance_id = blamed and q.flow > 0) then
    perform lock_gate();
  end if;
  insert into workflow_deaths (worker, instance_id, how) values (dead, blamed, how_)
  on conflict do nothing;
  if found then
    update workflow_queue q set deaths = least(q.deaths + 1, 1000) where q.instance_id = blamed;
  end if;
  perform takeover(dead, null);
  update workflow_queue q
  set state = 'stuck', due = null,
      reason = (jsonb_build_object('code', 'quarantined', 'since', utc(business_now()), 'message',
          q.deaths || ' workers died while its Lua was running, the last one: ' || how_ ||
          '. It is not run again until a person says so: look for a crash or an endless call in ' ||
          'its workflow or in an action it uses',
          'can', jsonb_build_array('retry', 'cancel')) ||
        case when q.state = 'stopping' then jsonb_build_object('stopping', q.reason)
             when q.reason->'stopping' is not null
               then jsonb_build_object('stopping', q.reason->'stopping')
             else '{}' end)::json
  where q.instance_id = blamed and q.deaths >= 3 and q.worker is null;
  if found then
    perform flow_left(array[blamed]);
  end if;
end $$;

-- What waits in each stage, and since when. Counts end at 100,000: nobody needs to know more often
-- than that how much more it is.
create function engine_backlog() returns table (stage text, waiting bigint, oldest timestamptz)
language sql volatile as $$
  select 'detect', count(*), min(a.arrived_at)
  from (select x.arrived_at from arrivals x order by x.id limit 100000) a
  union all
  select 'execute', count(*), min(d.due)
  from (values (0::smallint), (1::smallint), (2::smallint), (3::smallint)) c(priority)
  cross join lateral (select w.due from workflow_queue w
                      where w.priority = c.priority and w.due <= clock_timestamp()
                        and w.worker is null order by w.due limit 100000) d
  union all
  select 'outbound', count(*), min(o.intended_at)
  from (select m.intended_at from messaging_log m where m.state in ('intent', 'in_doubt', 'held')
        union all
        select l.intended_at from outbound_log l where l.state in ('intent', 'in_doubt', 'held')
        limit 100000) o
$$;

-- Whoever writes arrivals may have said, for its transaction, to which trace they belong (a webhook's
-- `traceparent`): select set_config('moonwright.trace', ..., true).
alter table arrivals add column trace text
  default nullif(current_setting('moonwright.trace', true), '');

create or replace function read_arrivals(n int) returns json language sql stable as $$
  select coalesce(json_agg(json_build_object('id', a.id, 'type', a.type, 'entity', a.entity,
           'entity_id', a.entity_id, 'at', fact_time(a.at), 'payload', a.payload, 'trace', a.trace)
           order by a.id), '[]')
  from (select * from arrivals order by id limit n) a
$$;
