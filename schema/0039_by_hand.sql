-- database: engine
-- What a person tells by hand is checked as what a workflow emits is, and workflows that are no longer
-- in force are listed as long as instances of them live.

-- What is wrong with the data of an event, by what its rule declares; null: nothing.
create function data_problem(declared json, data json) returns text language sql immutable as $$
  select case
    when json_typeof(data) <> 'object' then 'data must be an object'
    else coalesce(
      (select 'unknown field "' || g.key || '" in data; it takes ' || coalesce((
                select string_agg(w.key, ', ' order by w.key) from json_each_text(declared) w), 'none')
       from json_each(data) g where declared->g.key is null order by g.key limit 1),
      (select 'data: ' || w.key || case when v.kind is null then ' is missing'
                else ' must be a ' || rtrim(w.value, '?') end
       from json_each_text(declared) w,
            lateral (select nullif(json_typeof(data->w.key), 'null') as kind) v
       where case
         when v.kind is null then w.value not like '%?'
         when rtrim(w.value, '?') in ('number', 'money') then v.kind <> 'number'
         when rtrim(w.value, '?') = 'boolean' then v.kind <> 'boolean'
         when v.kind <> 'string' then true
         when rtrim(w.value, '?') = 'date' then data->>w.key !~ '^\d{4}-\d\d-\d\d$'
         when rtrim(w.value, '?') = 'time' then data->>w.key !~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d'
         else false end
       order by w.key limit 1))
  end
$$;

create or replace function emit_by_hand(wanted text, payload json) returns text
language plpgsql volatile as $$
declare
  rule json;
  subject text;
  problem text;
begin
  -- As events.lua is now; a workflow knows them as they were when it was saved.
  select d.declaration->'events'->wanted into rule
  from workflow_definitions d
  where d.active and d.declaration->'events' is not null
  order by d.name = 'events' desc, d.activated_at desc limit 1;
  if rule is null then
    raise exception 'there is no event ''%''', wanted using errcode = 'MWN01';
  elsif not coalesce((rule->>'manual')::boolean, false) then
    raise exception 'event ''%'' comes from elsewhere: only one with manual = true in events.lua is a'
      ' person''s to tell', wanted using errcode = 'MWI01';
  end if;
  problem := data_problem(rule->'data', case when json_typeof(payload->'data') <> 'null'
                                                  then payload->'data' end);
  if problem is not null then
    raise exception 'event ''%'': %', wanted, problem using errcode = 'MWU01';
  end if;
  subject := rule->>'of';
  if payload->subject->>'id' is null and coalesce(payload->'customer'->>'phone',
                                                  payload->'customer'->>'email') is null then
    raise exception 'event ''%'' is about a %: say which', wanted, subject using errcode = 'MWI01';
  end if;
  insert into arrivals (type, entity, entity_id, at, payload)
  values (wanted, subject, coalesce(payload->subject->>'id', payload->'customer'->>'phone',
                                    payload->'customer'->>'email'), business_now(), payload);
  perform pg_notify('arrivals', '');
  return subject;
end $$;

-- A workflow in force, or the newest version that instances still run of one that isn't: since is null.
create or replace view workflow_list as
  with alive as materialized (select * from versions_alive())
  select d.name as workflow, d.version, d.declaration->>'class' as class,
         concat_ws(' ', (
           select string_agg(e.value #>> '{}', ' ')
           from json_array_elements(case json_typeof(d.declaration->'on') when 'array'
                  then d.declaration->'on' else json_build_array(d.declaration->'on') end) e),
           'at ' || (d.declaration->'schedule'->>'cron')) as "on",
         case when d.active
              then to_char(d.activated_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') end as since,
         coalesce(sum(a.alive), 0) as alive,
         coalesce(sum(a.alive) filter (where o.id <> d.id), 0) as older,
         (select count(*) from workflow_instances i
          where i.workflow = d.name and i.finished_at is not null) as ended,
         (select 'since ' || utc(p.since) || ', ' || c.held || ' held'
                 || case when c.coming > 0 then ', ' || c.coming || ' to be held' else '' end
          from workflow_pauses p, paused_counts(d.name) c where p.workflow = d.name) as paused
  from workflow_definitions d
  join workflow_definitions o on o.name = d.name
  left join alive a on a.definition = o.id
  where coalesce(d.declaration->>'kind', 'workflow') = 'workflow'
    and d.id = (select n.id from workflow_definitions n left join alive l on l.definition = n.id
                where n.name = d.name and (n.active or l.alive > 0)
                order by n.active desc, n.version desc limit 1)
  group by d.id;
