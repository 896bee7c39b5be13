-- database: engine
-- Schedules: the fires of workflows by the clock.
--
-- A fire is an event ('schedule', of its workflow, at its planned time), so it is unique by what makes
-- every event unique. Which fires are decided is kept here, and moves on in the unit that makes them.

create table workflow_schedules (
  id bigint generated always as identity primary key,
  workflow text not null,
  definition int not null,               -- the version that is in force
  spec jsonb not null,                   -- {cron, zone, gap, fold, catch_up}
  since timestamptz not null,            -- its fires begin after this, business time
  reached timestamptz not null,          -- all fires until then are decided, business time
  planned timestamptz,                   -- the last that was made: for when, and when; business time
  made timestamptz,
  ended_at timestamptz                   -- real time: no fires from then on
);
create unique index workflow_schedules_current on workflow_schedules (workflow)
  where ended_at is null;

-- A fire that was not made is a skip without an event.
alter table workflow_skips alter column event_id drop not null;
alter table workflow_skips add column planned timestamptz;  -- for when, business time
create unique index workflow_skips_planned on workflow_skips (workflow, planned, reason)
  where planned is not null;

-- A schedule follows its version, whoever puts that in force or out of it. With the same times it goes
-- on where it is; with others, and when it was out of force meanwhile, it begins anew. In one
-- transaction the old version goes out of force before the new one is.
create function schedule_follows() returns trigger language plpgsql as $$
declare
  wanted jsonb := (new.declaration->'schedule')::jsonb;
begin
  if not new.active then
    update workflow_schedules s set ended_at = now()
    where s.definition = new.id and s.ended_at is null;
    return null;
  end if;
  if wanted is null then
    return null;
  end if;
  update workflow_schedules s set definition = new.id, spec = wanted, ended_at = null
  where s.workflow = new.name and (s.ended_at is null or s.ended_at = now())
    and s.spec - 'catch_up' = wanted - 'catch_up';
  if not found then
    insert into workflow_schedules (workflow, definition, spec, since, reached)
    select new.name, new.id, wanted, b, b from business_now() b;
  end if;
  return null;
end $$;
create trigger schedule_follows after insert or update of active on workflow_definitions
  for each row execute function schedule_follows();

-- What detection needs to know of all schedules, a few rows. While a workflow is paused nothing of it is
-- decided; afterwards its catch_up says what becomes of what came due. (In PL/pgSQL because the pauses
-- are made by a later file.)
create function read_schedules() returns json language plpgsql stable as $$
begin
  return (select coalesce(json_agg(json_strip_nulls(json_build_object('id', s.id, 'workflow', s.workflow,
           'definition', s.definition, 'spec', s.spec, 'reached', fact_time(s.reached),
           'ended', fact_time(business_of(s.ended_at)))) order by s.id), '[]')
  from workflow_schedules s
  where s.ended_at is not null
     or not exists (select from workflow_pauses p where p.workflow = s.workflow));
end $$;

-- What was decided about schedules: [{id, workflow, seen: what "reached" was, reached, ended, made:
-- [planned], skips: [{planned, reason, detail}]}]. Raises MWC01 when somebody else has decided, or the
-- schedule was changed or ended meanwhile.
create function settle_schedules(list json) returns void language plpgsql volatile as $$
declare
  s record;
begin
  for s in
    select * from json_to_recordset(list) as x (id bigint, workflow text, seen timestamptz,
      reached timestamptz, ended boolean, made json, skips json)
  loop
    if s.ended then
      delete from workflow_schedules w
      where w.id = s.id and w.reached = s.seen and w.ended_at is not null;
    else
      update workflow_schedules w
      set reached = s.reached, planned = coalesce((s.made->>-1)::timestamptz, w.planned),
          made = case when json_array_length(s.made) > 0 then business_now() else w.made end
      where w.id = s.id and w.reached = s.seen and w.ended_at is null;
    end if;
    if not found then
      raise exception 'the fires were decided by somebody else' using errcode = 'MWC01';
    end if;
    insert into workflow_skips (workflow, planned, reason, detail, at)
    select s.workflow, k.planned, k.reason, (jsonb_build_object('planned', utc(k.planned))
             || coalesce(k.detail::jsonb, '{}'))::json, business_now()
    from json_to_recordset(s.skips) as k (planned timestamptz, reason text, detail json)
    on conflict do nothing;
  end loop;
end $$;

-- What the monitor tells: fires that nobody made, for a day.
create function missed_fires() returns table (kind text, subject text, severity text, message text)
language sql stable as $$
  select 'schedule', k.workflow, 'warning', count(*) || ' fires were missed, the last one planned for '
         || utc(max(k.planned)) || ': see `events starts`'
  from workflow_skips k
  where k.planned is not null and k.reason = 'missed' and k.at > business_now() - interval '1 day'
  group by k.workflow
$$;
