-- database: engine
-- What people do with instances: find them, look at one, and tell it what to do. Commands, and whoever
-- else stands for a person, ask these functions; each says what it did, and what was refused why.
-- MWN01: what was named isn't there; MWI01: as things stand it can't be done.

-- A live instance is paused because its workflow is, and goes on with it.
alter table workflow_queue add column with_workflow boolean not null default false;

-- When its payloads were removed, long after its end.
alter table workflow_instances add column pruned_at timestamptz;

-- Names ------------------------------------------------------------------------------------------

-- The first or last uuid that begins with these letters, or null: an id's beginning is a range of the
-- primary key.
create function uuid_edge(prefix text, filler text) returns uuid language plpgsql immutable as $$
begin
  if prefix !~ '^[0-9a-fA-F-]{1,36}$' then
    return null;
  end if;
  return (prefix || substr(replace('00000000-0000-0000-0000-000000000000', '0', filler),
                           length(prefix) + 1))::uuid;
exception when invalid_text_representation then
  return null;
end $$;

create function instance_named(prefix text) returns uuid language plpgsql stable as $$
declare
  found_ uuid[] := array(
    select i.id from workflow_instances i
    where i.id between uuid_edge(prefix, '0') and uuid_edge(prefix, 'f') order by i.id limit 2);
begin
  if cardinality(found_) = 0 then
    raise exception 'there is no instance ''%''', prefix using errcode = 'MWN01';
  elsif cardinality(found_) > 1 then
    raise exception 'several instances begin with ''%'': give more of the id', prefix
      using errcode = 'MWI01';
  end if;
  return found_[1];
end $$;

create or replace function signal_instance(prefix text, name text, data json) returns uuid
language plpgsql volatile as $$
declare
  found_ uuid[];
begin
  if name !~ '^[a-z][a-z0-9_]*$' then
    raise exception '"%" is no name of a signal: lower-case letters, digits and _', name
      using errcode = 'MWI01';
  end if;
  found_ := array(select q.instance_id from workflow_queue q
                  where q.instance_id between uuid_edge(prefix, '0') and uuid_edge(prefix, 'f')
                  limit 2);
  if cardinality(found_) <> 1 then
    raise exception 'there is no live instance ''%'', or several begin so', prefix
      using errcode = 'MWN01';
  end if;
  insert into arrivals (type, entity, entity_id, at, payload)
  values ('signal_' || name, 'instance', found_[1]::text, business_now(),
          json_strip_nulls(json_build_object('instance', found_[1], 'data', data)));
  perform pg_notify('arrivals', '');
  return found_[1];
end $$;

create or replace function answer_named(prefix text, answer json) returns text
language plpgsql volatile as $$
declare
  found_ uuid[] := array(
    select t.id from staff_tasks t
    where t.id between uuid_edge(prefix, '0') and uuid_edge(prefix, 'f')
    order by (t.done_at is null and t.cancelled_at is null) desc limit 2);
  result text;
begin
  if cardinality(found_) <> 1 then
    raise exception 'there is no task ''%'', or several begin so', prefix using errcode = 'MWN01';
  end if;
  if (select t.approval from staff_tasks t where t.id = found_[1])
     <> (answer->>'approved' is not null) then
    raise exception 'an approval is answered with yes or no, a to-do with done'
      using errcode = 'MWI01';
  end if;
  result := answer_task(found_[1], answer);
  if result <> 'done' then
    raise exception 'task ''%'': %', prefix, result using errcode = 'MWI01';
  end if;
  return found_[1];
end $$;

-- A time as people read it where it matters: "2026-06-03 10:00 America/New_York".
create function local_time(at timestamptz, zone text) returns text language sql stable as $$
  select to_char(at at time zone zone, 'YYYY-MM-DD HH24:MI') || ' ' || zone
$$;

-- Searching --------------------------------------------------------------------------------------

-- Text as a pattern that finds it anywhere.
create function anywhere(t text) returns text language sql immutable as $$
  select '%' || regexp_replace(t, '([\\%_])', '\\\1', 'g') || '%'
$$;

-- How many of the newest instances are looked at for what no index finds.
create function search_depth() returns int language sql immutable as $$ select 20000 $$;
-- And how many a search can find.
create function search_most() returns int language sql immutable as $$ select 100000 $$;

-- Whether what an event carries has this text: kind customer (name, e-mail), phone, address, job or
-- estimate (number, id). pattern is as anywhere() makes it, digits those of the text.
create function snapshot_has(e json, kind text, pattern text, digits text) returns boolean
language sql immutable as $$
  select case kind
    when 'customer' then coalesce(e->'customer'->>'name' ilike pattern, false)
      or coalesce(e->'customer'->>'email' ilike pattern, false)
      or coalesce(e->'customer'->>'id' = btrim(replace(pattern, '\', ''), '%'), false)
    when 'phone' then digits <> '' and (
      coalesce(regexp_replace(e->'customer'->>'phone', '\D', '', 'g') like '%' || digits || '%', false)
      or coalesce(regexp_replace(e->'reply'->>'phone', '\D', '', 'g') like '%' || digits || '%', false))
    when 'address' then
      concat_ws(' ', e->'location'->>'address', e->'location'->>'city', e->'location'->>'state',
                e->'location'->>'zip') ilike pattern
      or concat_ws(' ', e->'customer'->>'address', e->'customer'->>'city', e->'customer'->>'state',
                   e->'customer'->>'zip') ilike pattern
    when 'job' then coalesce(e->'job'->>'number' ilike pattern, false)
      or coalesce(e->'job'->>'id' ilike pattern, false)
    when 'estimate' then coalesce(e->'estimate'->>'id' ilike pattern, false)
      or coalesce(e->'estimate'->>'name' ilike pattern, false)
    else false end
$$;

-- What must stand somewhere in a text that has this: its longest run of plain letters and digits, which no
-- JSON writes otherwise. Of a number its last digits, which are rarely cut apart.
create function sieve(t text, kinds text[]) returns text language sql immutable as $$
  select case when kinds = '{phone}' then anywhere(right(regexp_replace(t, '\D', '', 'g'), 4))
    else anywhere(coalesce((
      select m[1] from regexp_matches(t, '[A-Za-z0-9]+', 'g') m order by length(m[1]) desc limit 1), ''))
    end
$$;

-- Instances about somebody or something that is called so in the copy of ServiceTitan. `known` are the
-- ids that it has under this name: {customers}, {jobs} or {estimates}.
create function search_known(kind text, t text, known json) returns setof uuid
language plpgsql stable as $$
declare
  keys text[];
begin
  if kind in ('customer', 'phone', 'address') then
    return query
      select i.id from workflow_instances i
      where i.customer_id = any(array(
        select x.value::bigint from json_array_elements_text(coalesce(known->'customers', '[]')) x))
      order by i.created_at desc limit search_most();
  else
    keys := array(
      select kind || ':' || x.value
      from json_array_elements_text(coalesce(known->(kind || 's'), '[]')) x
      union select kind || ':' || t where t ~ '^\d{1,18}$');
    return query
      select i.id from workflow_instances i
      where i.event_id = any(array(select k.event_id from event_keys k where k.key = any(keys)))
      limit search_most();
  end if;
  if kind = 'phone' and phone_e164(t) is not null then
    return query
      select i.id from workflow_instances i
      where i.event_id = any(array(select k.event_id from event_keys k
                                   where k.key = 'phone:' || phone_e164(t)))
      union select m.instance_id from messaging_log m where m.address = phone_e164(t)
      limit search_most();
  end if;
end $$;

-- People that ServiceTitan doesn't know have no id, and what an event carries may be called otherwise
-- by now: that is looked for among the newest, and among the newest without a customer.
create function search_newest(kinds text[], t text) returns setof uuid language sql stable as $$
  select n.id
  from ((select i.id, i.event_id from workflow_instances i
         order by i.created_at desc limit search_depth())
        union
        (select i.id, i.event_id from workflow_instances i where i.customer_id is null
         order by i.created_at desc limit search_depth())) n
  cross join lateral (select e.payload from events e
                      where e.id = n.event_id and e.payload::text ilike sieve(t, kinds) offset 0) e
  where exists (select from unnest(kinds) k
                where snapshot_has(e.payload, k, anywhere(t), regexp_replace(t, '\D', '', 'g')))
$$;

-- Instances whose trouble says so: the stuck ones, and of the newest those that ended so.
create function search_error(t text) returns setof uuid language sql stable as $$
  (select q.instance_id from workflow_queue q
   where q.worker is null and q.due is null and q.priority = any('{0,1,2,3}'::smallint[])
     and q.reason->>'message' ilike anywhere(t) limit search_most())
  union
  (select n.id
   from (select i.id, i.error, i.reason from workflow_instances i
         order by i.created_at desc limit search_depth()) n
   where n.error ilike anywhere(t) or n.reason ilike anywhere(t))
$$;

-- What any of it finds: by name, number, address, trouble, id, workflow.
create function search_text(t text, known json) returns setof uuid language plpgsql stable as $$
declare
  kinds text[] := case when length(regexp_replace(t, '\D', '', 'g')) < 4
    then '{customer,address,job,estimate}' else '{customer,phone,address,job,estimate}' end;
  k text;
begin
  foreach k in array kinds loop
    return query select search_known(k, t, known->k);
  end loop;
  return query select search_newest(kinds, t);
  return query select search_error(t);
  return query
    select i.id from workflow_instances i
    where i.id between uuid_edge(t, '0') and uuid_edge(t, 'f') limit 1000;
  return query
    select n.id from (select i.id, i.workflow from workflow_instances i
                      order by i.created_at desc limit search_depth()) n
    where n.workflow ilike anywhere(t);
end $$;

-- The ids that a question finds, null: it asks for nothing that is searched for. q: {customer, phone,
-- address, job, estimate: text each; text: any of them; known: {kind: ids of ServiceTitan}}.
create function search_ids(q json) returns uuid[] language plpgsql stable as $$
declare
  result uuid[];
  one uuid[];
  k text;
begin
  foreach k in array '{customer,phone,address,job,estimate,text}'::text[] loop
    continue when coalesce(q->>k, '') = '';
    if k = 'text' then
      one := array(select search_text(q->>k, q->'known'));
    else
      one := array(select search_known(k, q->>k, q->'known'->k)
                   union select search_newest(array[k], q->>k));
    end if;
    result := case when result is null then array(select distinct x from unnest(one) x)
                   else array(select unnest(result) intersect select unnest(one)) end;
  end loop;
  return result;
end $$;

-- The ids of a question in the order of a list: what is stuck first, then the newest; with `newest`
-- only that. q has also: state, workflow, mode, error, since (business time), after (the last one of the
-- page before), limit. The conditions are put together, so that each question gets a plan of its own.
create function instances_found(q json) returns table (id uuid, nth bigint)
language plpgsql stable as $$
declare
  ids uuid[] := search_ids(q);
  most int := coalesce((q->>'limit')::int, 50);
  since timestamptz := (q->>'since')::timestamptz;
  last_ record;
  conditions text := '';
  waits text := ' and w.worker is null and w.due is null and w.priority = any(''{0,1,2,3}''::smallint[])';
  n bigint := 0;
begin
  if ids is not null then
    conditions := conditions || ' and i.id = any($1)';
  end if;
  if q->>'workflow' <> '' then
    conditions := conditions || ' and i.workflow = $2';
  end if;
  if q->>'error' <> '' then
    conditions := conditions || ' and (w.reason->>''message'' ilike $9 or i.error ilike $9'
                             || ' or i.reason ilike $9)';
  end if;
  if q->>'mode' <> '' then
    conditions := conditions || ' and i.mode = $7';
  end if;
  if since is not null then
    conditions := conditions || ' and i.created_at >= $3';
  end if;
  if q->>'state' in ('done', 'stopped', 'failed', 'cancelled') then
    conditions := conditions || ' and i.finished_at is not null and i.state = $4';
  elsif q->>'state' = 'running' then
    conditions := conditions || ' and w.worker is not null';
  elsif q->>'state' = 'live' then
    conditions := conditions || ' and w.instance_id is not null';
  elsif q->>'state' <> '' then
    conditions := conditions || ' and w.state = $4';
  end if;
  select i.created_at, i.id, coalesce(x.state = 'stuck', false) as stuck into last_
  from workflow_instances i left join workflow_queue x on x.instance_id = i.id
  where i.id = case when q->>'after' <> '' then instance_named(q->>'after') end;

  if q->>'state' in ('stuck', 'paused')
     or not coalesce((q->>'newest')::boolean, false) and (last_.id is null or last_.stuck) then
    return query execute
      'select i.id, row_number() over (order by i.created_at desc, i.id desc)
       from workflow_queue w join workflow_instances i on i.id = w.instance_id
       where w.state = ' || quote_literal(case q->>'state' when 'paused' then 'paused' else 'stuck' end)
      || waits || conditions
      || case when last_.id is null then '' else ' and (i.created_at, i.id) < ($5, $6)' end
      || ' order by i.created_at desc, i.id desc limit ' || most
    using ids, q->>'workflow', since, q->>'state', last_.created_at, last_.id, q->>'mode', n,
          anywhere(q->>'error');
    get diagnostics n = row_count;
  end if;
  if n < most and coalesce(q->>'state', '') not in ('stuck', 'paused') then
    return query execute
      'select i.id, $8 + row_number() over (order by i.created_at desc, i.id desc)
       from workflow_instances i left join workflow_queue w on w.instance_id = i.id
       where true' || conditions
      || case when coalesce((q->>'newest')::boolean, false) then ''
              else ' and w.state is distinct from ''stuck''' end
      || case when last_.id is null or (last_.stuck and not coalesce((q->>'newest')::boolean, false))
              then '' else ' and (i.created_at, i.id) < ($5, $6)' end
      || ' order by i.created_at desc, i.id desc limit ' || (most - n)
    using ids, q->>'workflow', since, q->>'state', last_.created_at, last_.id, q->>'mode', n,
          anywhere(q->>'error');
  end if;
end $$;

-- What an instance waits for, as a line; null: for nothing.
create function waits_for(instance uuid) returns text language sql stable as $$
  select string_agg(case w.kind
      when 'sleep' then 'sleeps'
      when 'child' then 'waits for what it called'
      else 'waits for ' || coalesce((
        select string_agg(distinct s.type, ', ') from workflow_subscriptions s
        where s.instance_id = w.instance_id and s.kind = 'wait' and s.branch = w.branch
          and s.ordinal = w.ordinal), 'an event') end
    || case when w.deadline is not null then ' until ' || utc(w.deadline) else '' end, '; '
    order by w.branch, w.ordinal)
  from workflow_waits w where w.instance_id = instance
$$;

-- The rows of a list, in its order.
create function instances_list(q json) returns table (
  instance uuid, workflow text, state text, mode text, about text, customer text, started text,
  finished text, next text, why text)
language sql stable as $$
  select i.id, i.workflow, coalesce(w.state, i.state), i.mode, concat_ws(' ', i.entity, i.entity_id),
         coalesce((select e.payload->'customer'->>'name' from events e where e.id = i.event_id),
                  i.customer_id::text),
         utc(i.created_at), utc(i.finished_at), utc(business_of(w.due)),
         coalesce(case when w.state = 'paused' and w.with_workflow then 'its workflow is paused' end,
                  w.reason->>'message',
                  case when w.queued_key is not null then 'queued behind the one that has its key' end,
                  case when w.state in ('sleeping', 'waiting') then waits_for(i.id) end,
                  i.error, i.reason, i.outcome)
  from instances_found(q) f
  join workflow_instances i on i.id = f.id
  left join workflow_queue w on w.instance_id = i.id
  order by f.nth
$$;

-- Pausing a whole workflow -----------------------------------------------------------------------

-- While a row is here nothing of that workflow goes on: what starts waits, what lives is held at its
-- next step, stops still end it. Clocks go on.
create table workflow_pauses (
  workflow text primary key,
  since timestamptz not null             -- business time
);

create function is_paused(definition int) returns boolean language sql stable as $$
  select exists (select from workflow_pauses)
     and exists (select from workflow_pauses p join workflow_definitions d on d.name = p.workflow
                 where d.id = definition)
$$;

create function paused_reason(with_workflow boolean) returns json language sql volatile as $$
  select json_build_object('code', 'paused', 'message',
    case when with_workflow then 'its workflow is paused' else 'paused by a person' end,
    'since', utc(business_now()), 'can', case when with_workflow then json_build_array('cancel')
    else json_build_array('resume', 'cancel') end)
$$;

-- Starts come under the gate, as does the pause of a workflow: none slips through between.
create function queue_paused() returns trigger language plpgsql as $$
begin
  if not exists (select from workflow_pauses) then
    return new;
  elsif is_paused(new.workflow_definition_id) then
    new.state := 'paused';
    new.due := null;
    new.with_workflow := true;
    new.reason := paused_reason(true);
  end if;
  return new;
end $$;
create trigger workflow_queue_paused before insert on workflow_queue
for each row execute function queue_paused();

-- One instance -----------------------------------------------------------------------------------

drop function pause_instance(uuid);

-- Holds an instance where it is; its clocks go on. One that a worker holds is asked by its inbox, and
-- held before its next step. False: it has ended, or is stopping.
create function pause_instance(instance uuid, whole boolean default false) returns boolean
language plpgsql volatile as $$
declare
  q record;
begin
  perform lock_gate();  -- before any row of the queue: what it gives back may start others
  select x.worker, x.state into q from workflow_queue x
  where x.instance_id = instance for no key update;
  if not found or q.state = 'stopping' then
    return false;
  end if;
  if q.worker is null then
    update workflow_queue x
    set state = 'paused', due = null, with_workflow = whole, reason = paused_reason(whole)
    where x.instance_id = instance;
    perform flow_left(array[instance]);
  else
    insert into workflow_inbox (instance_id, event_id, kind, settled)
    values (instance, '00000000-0000-0000-0000-000000000000', 'paused', 0) on conflict do nothing;
    update workflow_queue x set watched = true, with_workflow = whole where x.instance_id = instance;
  end if;
  return true;
end $$;

-- Lets a stuck, paused or postponed instance go on at once, from where it is; one whose workflow is
-- paused when that goes on.
create or replace function resume_instance(instance uuid) returns boolean
language plpgsql volatile as $$
declare
  q record;
  whole boolean;
begin
  if exists (select from workflow_pauses) then
    perform lock_gate();
  end if;
  select x.worker, x.state, x.workflow_definition_id, x.reason into q from workflow_queue x
  where x.instance_id = instance for no key update;
  if not found then
    return false;
  end if;
  whole := is_paused(q.workflow_definition_id);
  if whole and q.state <> 'stopping' and q.reason->'stopping' is null then
    return pause_instance(instance, true);
  end if;
  delete from workflow_inbox b where b.instance_id = instance and b.kind = 'paused';
  if q.worker is null and q.state <> 'stopping' then
    update workflow_queue x
    set state = case when x.reason->'stopping' is null then 'pending' else 'stopping' end,
        reason = x.reason->'stopping', with_workflow = false, deaths = 0,
        due = case when x.queued_key is null then clock_timestamp() end -- else it isn't its turn
    where x.instance_id = instance;
  elsif q.worker is null then
    update workflow_queue x set due = clock_timestamp(), with_workflow = false
    where x.instance_id = instance;
  else
    -- Its worker may be about to give it up for the very reason that is gone now.
    update workflow_queue x set with_workflow = false where x.instance_id = instance and with_workflow;
    insert into workflow_inbox (instance_id, event_id, kind, settled)
    values (instance, '00000000-0000-0000-0000-000000000000', 'resume', 0) on conflict do nothing;
  end if;
  return true;
end $$;

-- A whole workflow -------------------------------------------------------------------------------

create function workflow_known(name text) returns void language plpgsql stable as $$
begin
  if not exists (select from workflow_definitions d
                 where d.name = workflow_known.name and d.declaration->>'kind' is distinct from 'events')
  then
    raise exception 'there is no workflow ''%''', name using errcode = 'MWN01';
  end if;
end $$;

-- From its commit on every start waits; those that live are held by hold_paused(). False: it was
-- paused already.
create function pause_workflow(name text) returns boolean language plpgsql volatile as $$
begin
  perform workflow_known(name);
  perform lock_gate();
  insert into workflow_pauses (workflow, since) values (name, business_now()) on conflict do nothing;
  return found;
end $$;

create function resume_workflow(name text) returns boolean language plpgsql volatile as $$
begin
  perform workflow_known(name);
  perform lock_gate();
  delete from workflow_pauses p where p.workflow = name;
  if found then
    perform pg_notify('arrivals', '');  -- its schedule has something to catch up with
    return true;
  end if;
  return false;
end $$;

-- Holds up to n live instances of paused workflows that go on yet. How many; 0: all are held, or asked.
create function hold_paused(n int) returns bigint language plpgsql volatile as $$
declare
  held bigint;
begin
  if not exists (select from workflow_pauses) then
    return 0;
  end if;
  perform lock_gate();
  select count(pause_instance(l.instance_id, true)) into held
  from (select q.instance_id from workflow_queue q
        where q.workflow_definition_id = any(array(
                select d.id from workflow_definitions d join workflow_pauses p on p.workflow = d.name))
          and q.state not in ('stuck', 'paused', 'stopping')
          and not exists (select from workflow_inbox b
                          where b.instance_id = q.instance_id and b.kind = 'paused')
        order by q.instance_id limit n) l;
  return held;
end $$;

-- Lets up to n go on that were held with a workflow which isn't paused any more.
create function release_paused(n int) returns bigint language plpgsql volatile as $$
declare
  released bigint;
begin
  select count(resume_instance(l.instance_id)) into released
  from (select q.instance_id from workflow_queue q
        where q.with_workflow
          and not q.workflow_definition_id = any(array(
                select d.id from workflow_definitions d join workflow_pauses p on p.workflow = d.name))
        order by q.instance_id limit n) l;
  if released > 0 then
    perform pg_notify('work', '');
  end if;
  return released;
end $$;

-- How many of a workflow are held with it, and how many are still under way to be.
create function paused_counts(name text) returns table (held bigint, coming bigint)
language sql stable as $$
  select count(*) filter (where q.state = 'paused'),
         count(*) filter (where q.state not in ('paused', 'stuck', 'stopping'))
  from workflow_queue q
  where q.workflow_definition_id = any(array(select d.id from workflow_definitions d
                                             where d.name = paused_counts.name))
$$;

-- Beginning again from a step --------------------------------------------------------------------

-- What a restart would do: {instance, run, seq, step, kept, dropped: [{seq, name}], sent: [{id, what,
-- to, state, at}], undecided: [ids], children}, with `refused` when it can't be. `from_step` is a step
-- of the timeline, by its number (seq), its name or its place (branch/ordinal); null: the beginning.
-- Steps before it, in the order in which they came to an end, are kept as they are.
create function restart_plan(instance uuid, from_step text) returns json
language plpgsql volatile as $$
declare
  q record;
  s record;
  n int;
begin
  select coalesce(x.run, (select max(r.run) from workflow_step_executions r
                          where r.workflow_instance_id = instance), 1::smallint) as run,
         x.worker, x.state, x.reason, x.instance_id is null as ended, i.pruned_at, i.business_key
  into q
  from workflow_instances i left join workflow_queue x on x.instance_id = i.id where i.id = instance;
  if q.pruned_at is not null then
    return json_build_object('instance', instance, 'refused', 'it ended long ago, and what it carried'
      || ' was removed');
  elsif q.ended and exists (select from workflow_queue h where h.business_key = q.business_key) then
    return json_build_object('instance', instance, 'refused', 'it has ended, and another has its key: '
      || (select h.instance_id from workflow_queue h where h.business_key = q.business_key));
  elsif q.worker is not null then
    return json_build_object('instance', instance, 'refused', 'a worker is at it', 'busy', true);
  elsif q.state = 'stopping' or q.reason->'stopping' is not null then
    return json_build_object('instance', instance, 'refused', 'it is being stopped');
  end if;
  select min(x.seq) as seq, min(x.name) as name, count(*) as n into s
  from workflow_step_executions x
  where x.workflow_instance_id = instance and x.run = q.run
    and x.branch !~ '^(on_stop|on_error|undo)'
    and (x.seq::text = from_step or x.name = from_step or x.branch || '/' || x.ordinal = from_step);
  if from_step is not null and s.n = 0 then
    return json_build_object('instance', instance, 'refused', 'it has no step ''' || from_step
      || ''' in its record: see `moonwright instances show`');
  elsif s.n > 1 then
    return json_build_object('instance', instance, 'refused', s.n || ' steps are called '''
      || from_step || ''': give the number of one');
  end if;
  n := case when from_step is null then 1 else s.seq end;
  return (
    with record as (
      select x.*, x.seq < n and x.branch !~ '^(on_stop|on_error|undo)' as stays
      from workflow_step_executions x
      where x.workflow_instance_id = instance and x.run = q.run
    ), kept as (
      select r.branch || '/' || r.ordinal as step from record r where r.stays
    ), redone as (
      select r.branch || '/' || r.ordinal as step from record r where not r.stays
    ), sends as (
      select m.id, m.channel as what, m.address as to_, m.state, m.shadow, m.decided_at as at,
             m.state in ('intent', 'in_doubt') or m.state = 'held' and m.rule is distinct from 'late'
               as undecided
      from messaging_log m
      where m.instance_id = instance and m.step not in (select k.step from kept k)
        and (m.run = q.run or m.step in (select d.step from redone d) and not exists (
               select from messaging_log l where l.instance_id = instance and l.step = m.step
                 and l.run > m.run))
        and m.state in ('sent', 'intent', 'in_doubt', 'held')
      union all
      select o.id, o.provider || ' ' || o.method || ' ' || o.call, o.url, o.state, o.shadow, o.at,
             o.effect = 'once' and o.state in ('intent', 'in_doubt', 'held')
      from outbound_log o
      where o.instance_id = instance and o.step not in (select k.step from kept k)
        and (o.run = q.run or o.step in (select d.step from redone d) and not exists (
               select from outbound_log l where l.instance_id = instance and l.step = o.step
                 and l.run > o.run))
        and o.state in ('done', 'intent', 'in_doubt', 'held')
    )
    select json_build_object('instance', instance, 'run', q.run, 'ended', q.ended, 'seq', n,
      'last', coalesce((select max(r.seq) from record r), 0),
      'step', coalesce(s.name, 'the beginning'), 'kept', (select count(*) from kept),
      'dropped', coalesce((select json_agg(json_build_object('seq', r.seq, 'name', r.name)
                                           order by r.seq) from record r where not r.stays), '[]'),
      'sent', coalesce((select json_agg(json_build_object('id', x.id, 'what', x.what, 'to', x.to_,
                          'state', x.state, 'shadow', x.shadow, 'at', utc(x.at)) order by x.at, x.id)
                        from sends x), '[]'),
      'children', (select count(*) from restart_orphans(instance, q.run, n)),
      'refused', (select 'nobody knows yet whether ' || x.what || ' ' || x.id || ' arrived: settle it'
                    || ' first, with `moonwright sends settle`'
                  from sends x where x.undecided order by x.at limit 1)));
end $$;

-- Live children that were started by steps which a restart from step n drops.
create function restart_orphans(instance uuid, run smallint, n int) returns setof uuid
language sql stable as $$
  select q.instance_id
  from workflow_queue q join workflow_instances c on c.id = q.instance_id
  where q.parent_id = instance and not c.detached
    and not exists (
      select from workflow_step_executions s
      where s.workflow_instance_id = instance and s.run = restart_orphans.run and s.seq < n
        -- What is kept was perhaps kept before, and made in an earlier run.
        and c.id = any(array(
          select id_of(instance || '/' || r || '/' || s.branch || '/' || s.ordinal || more)
          from generate_series(1, s.run) r, unnest(array['', '/customer ' || c.customer_id]) more)))
  order by q.instance_id
$$;

-- What an ended instance needs to live again: a row of the queue, and the stops of its workflow, which
-- look at what comes from now on. stops: [{type, key, judged}]. False: its key is taken.
create function revive_instance(instance uuid, run smallint, stops json) returns boolean
language plpgsql volatile as $$
begin
  insert into workflow_queue (instance_id, workflow_definition_id, event_id, priority, since, watched,
                              business_key, parent_id, run, epoch)
  select i.id, i.workflow_definition_id, coalesce(c.id, i.event_id),
         case d.declaration->>'priority' when 'high' then 1 when 'low' then 3 else 2 end,
         coalesce(e.settled, 0), json_array_length(stops) > 0, i.business_key,
         (select p.instance_id from workflow_queue p where p.instance_id = i.parent_id), run, 1
  from workflow_instances i
  join workflow_definitions d on d.id = i.workflow_definition_id
  left join events e on e.id = i.event_id
  left join lateral (select k.id from events k where k.entity = 'instance' and k.type = 'continued'
                       and k.entity_id = i.id::text order by k.at desc limit 1) c on true
  where i.id = instance and i.finished_at is not null
  on conflict (business_key) do nothing;
  if not found then
    return false;
  end if;
  update workflow_instances i
  set state = 'pending', finished_at = null, outcome = null, reason = null, error = null, value = null
  where i.id = instance;
  insert into workflow_subscriptions (instance_id, kind, type, key, since, judged)
  select instance, 'stop', w.type, key_today(w.key), (select g.settled from gate g), bool_or(w.judged)
  from json_to_recordset(stops) as w (type text, key text, judged boolean)
  group by w.type, key_today(w.key);
  return true;
end $$;

-- What to ask the fleet check's Lua about, to know the stops of an ended instance.
create function stops_wanted(instance uuid) returns json language sql stable as $$
  select json_build_object('instance', i.id, 'stop_when', coalesce(d.declaration->'stop_when', '[]'),
           'event', (select e.payload::text from events e where e.id = i.event_id))
  from workflow_instances i join workflow_definitions d on d.id = i.workflow_definition_id
  where i.id = instance
$$;

-- Does it: the next run begins with the steps that are kept, under keys of its own, so that whatever
-- is sent from there on is sent anew. `plan` is what was agreed to, `stops` those of one that has ended:
-- null when the instance has moved on since, or isn't free.
create function restart_instance(plan json, stops json default null) returns boolean
language plpgsql volatile as $$
declare
  this uuid := plan->>'instance';
  n int := plan->>'seq';
  q record;
begin
  perform lock_gate();
  if (plan->>'ended')::boolean and not revive_instance(this, (plan->>'run')::smallint, stops) then
    return null;
  end if;
  select x.run, x.worker, x.workflow_definition_id, x.queued_key into q from workflow_queue x
  where x.instance_id = this for no key update;
  if not found or q.worker is not null or q.run <> (plan->>'run')::int
     or (select coalesce(max(s.seq), 0) from workflow_step_executions s
         where s.workflow_instance_id = this and s.run = q.run) <> (plan->>'last')::int
     or restart_plan(this, case when n > 1 then n::text end)->>'refused' is not null then
    if (plan->>'ended')::boolean then
      raise exception 'it has changed meanwhile: look again' using errcode = 'MWI01';
    end if;
    return null;
  end if;
  perform stop_instance(c, 'parent stopped') from restart_orphans(this, q.run, n) c;
  insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, attempt,
      state, name, args_hash, input, output, at, started_at, finished_at)
  select this, q.run + 1, s.seq, s.branch, s.ordinal, s.attempt, s.state, s.name, s.args_hash, s.input,
         s.output, s.at, s.started_at, s.finished_at
  from workflow_step_executions s
  where s.workflow_instance_id = this and s.run = q.run and s.seq < n
    and s.branch !~ '^(on_stop|on_error|undo)';
  -- An event that a dropped wait has taken can be taken again.
  delete from workflow_inbox b
  where b.instance_id = this and b.kind = 'wait' and b.verdict = 'consumed'
    and b.event_id::text = any(array(
      select s.output->'event'->>'id' from workflow_step_executions s
      where s.workflow_instance_id = this and s.run = q.run and s.seq >= n));
  delete from workflow_waits w where w.instance_id = this;
  delete from workflow_subscriptions s where s.instance_id = this and s.kind = 'wait';
  update messaging_log m set state = 'suppressed', rule = 'restarted', until = null
  where m.instance_id = this and m.run = q.run and m.state = 'postponed';
  update staff_tasks t set cancelled_at = business_now()
  where t.instance_id = this and t.done_at is null and t.cancelled_at is null
    and not exists (
      select from workflow_step_executions s
      where s.workflow_instance_id = this and s.run = q.run and s.seq < n
        and t.id = any(array(select id_of(this || '/' || r || '/' || s.branch || '/' || s.ordinal)
                             from generate_series(1, q.run) r)));
  delete from workflow_inbox b where b.instance_id = this and b.kind in ('paused', 'resume');
  update workflow_queue x
  set run = q.run + 1, state = 'pending', reason = null, deaths = 0, with_workflow = false,
      epoch = greatest(x.epoch, 1), due = case when x.queued_key is null then clock_timestamp() end
  where x.instance_id = this;
  perform flow_left(array[this]);
  if is_paused(q.workflow_definition_id) then
    perform pause_instance(this, true);
  end if;
  perform pg_notify('work', '');
  return true;
end $$;

-- A person's word to one instance ----------------------------------------------------------------

-- verb: cancel, pause, resume, retry. `expected`: the state in which it was when it was chosen; one that
-- is in another by now is left alone. Returns {instance, workflow, was, done, says}.
create function instance_act(instance uuid, verb text, expected text default null) returns json
language plpgsql volatile as $$
declare
  i record;
  q record;
  ok boolean := false;
  says text;
  asked boolean;
begin
  perform lock_gate();
  select w.workflow, w.state, w.finished_at into i from workflow_instances w where w.id = instance;
  select x.state, x.worker, x.workflow_definition_id as definition, x.reason, x.with_workflow into q
  from workflow_queue x where x.instance_id = instance for no key update;
  if not found then
    says := 'left alone: it has ended as ' || coalesce(i.state, 'nothing we know');
    return json_build_object('instance', instance, 'workflow', i.workflow, 'was', i.state,
                             'done', false, 'says', says);
  end if;
  asked := q.worker is not null and exists (select from workflow_inbox b
             where b.instance_id = instance and b.kind = 'paused');
  if expected not in ('live', 'running') and expected <> q.state then
    says := 'left alone: it is ' || q.state || ' by now';
  elsif verb = 'cancel' then
    ok := q.state <> 'stopping' and stop_instance(instance, 'cancelled');
    says := case when not ok then 'left alone: it is being stopped already'
                 when q.worker is not null then 'asked: a worker is at it, it ends before its next step'
                 else 'is being cancelled' end;
  elsif verb = 'pause' then
    ok := q.state not in ('stuck', 'stopping') and (q.state <> 'paused' or q.with_workflow)
          and not (asked and not q.with_workflow) and pause_instance(instance);
    says := case when ok and q.worker is not null
                   then 'asked: a worker is at it, it is held before its next step'
                 when ok then 'is paused'
                 when q.state = 'stuck' then 'left alone: it is stuck, and does nothing anyhow'
                 when q.state = 'stopping' then 'left alone: it is being stopped'
                 else 'left alone: it is paused already' end;
  elsif verb in ('resume', 'retry') and is_paused(q.definition) and q.state <> 'stuck' then
    says := 'refused: its workflow is paused; resume that with `moonwright workflows resume '
            || i.workflow || '`';
  elsif verb = 'resume' then
    ok := (q.state in ('stuck', 'paused') or asked or q.state = 'waiting' and q.reason is not null)
          and resume_instance(instance);
    says := case when ok and q.worker is not null then 'goes on: it is not to be held any more'
                 when ok then 'goes on' else 'left alone: it is ' || q.state || ', neither paused nor stuck' end;
  elsif verb = 'retry' then
    ok := retry_instance(instance);
    says := case when ok then 'tries again'
                 when q.worker is not null then 'refused: a worker is at it just now'
                 else 'left alone: it is ' || q.state || ', not stuck' end;
  else
    raise exception 'nobody can % an instance', verb using errcode = 'MWI01';
  end if;
  if ok then
    perform pg_notify('work', '');
    if is_paused(q.definition) and verb in ('resume', 'retry') then
      says := says || ', when its workflow does';
    end if;
  end if;
  return json_build_object('instance', instance, 'workflow', i.workflow, 'was', q.state, 'done', ok,
                           'says', says);
end $$;

-- The same for many, each a fact of its own: what can't be done to one says so and holds up none.
create function instances_act(instances uuid[], verb text, expected text default null) returns setof json
language plpgsql volatile as $$
declare
  one uuid;
begin
  for one in select distinct x from unnest(instances) x order by x loop
    begin
      return next instance_act(one, verb, expected);
    exception when others then
      return next json_build_object('instance', one, 'done', false, 'says', 'failed: ' || sqlerrm);
    end;
  end loop;
end $$;

-- Looking at one ---------------------------------------------------------------------------------

-- The zone in which an instance's clock times are meant: its customer's, else the company's.
create function zone_of(instance uuid) returns text language sql stable as $$
  select coalesce(
    (select z.name from pg_timezone_names z
     where z.name = (select e.payload->'customer'->>'zone' from events e where e.id = i.event_id)),
    (select d.declaration->'company'->>'zone' from workflow_definitions d
     where d.id = i.workflow_definition_id), 'UTC')
  from workflow_instances i where i.id = instance
$$;

-- What a live instance waits for: since and until when, in UTC and where it is meant, and who can
-- wake it.
create function instance_waits(instance uuid) returns json language sql stable as $$
  with zone as (select zone_of(instance) as name)
  select coalesce(json_agg(json_strip_nulls(json_build_object(
      'step', w.branch || '/' || w.ordinal, 'kind', w.kind, 'since', utc(w.registered_at),
      'until', utc(w.deadline), 'until_local', local_time(w.deadline, zone.name),
      'events', (select json_agg(distinct s.type) from workflow_subscriptions s
                 where s.instance_id = w.instance_id and s.kind = 'wait' and s.branch = w.branch
                   and s.ordinal = w.ordinal),
      'about', (select json_agg(distinct s.key) from workflow_subscriptions s
                where s.instance_id = w.instance_id and s.kind = 'wait' and s.branch = w.branch
                  and s.ordinal = w.ordinal),
      'woken_by', case w.kind
        when 'sleep' then 'the clock'
        when 'child' then 'the end of what it called'
        else coalesce((
          select string_agg(distinct case
              when s.type = 'task_answered' then 'an answer: moonwright inbox answer '
                || split_part(s.key, ':', 2) || ' yes|no'
              when s.type = 'task_done' then 'a task done: moonwright inbox answer '
                || split_part(s.key, ':', 2) || ' done'
              when s.type like 'signal\_%' then 'moonwright signal ' || w.instance_id || ' '
                || substr(s.type, 8)
              else s.type || ' about ' || s.key end, '; ')
          from workflow_subscriptions s
          where s.instance_id = w.instance_id and s.kind = 'wait' and s.branch = w.branch
            and s.ordinal = w.ordinal), 'an event')
          || case when w.deadline is null then '' else '; the clock' end end))
    order by w.branch, w.ordinal), '[]')
  from workflow_waits w, zone where w.instance_id = instance
$$;

-- What a person can do with it next, as verbs.
create function instance_can(instance uuid) returns json language sql stable as $$
  select coalesce((
    select case
      when q.state = 'stopping' then '[]'
      when q.state = 'stuck' and q.reason->>'code' in ('send_in_doubt', 'send_late')
        then '["sends settle", "resume", "cancel"]'
      when q.state = 'stuck' then '["retry", "resume", "restart", "cancel"]'
      when q.state = 'paused' and q.with_workflow then '["workflows resume", "cancel", "restart"]'
      when q.state = 'paused' then '["resume", "restart", "cancel"]'
      when q.worker is not null then '["pause", "cancel"]'
      else '["pause", "restart", "cancel"]' end::json
    from workflow_queue q where q.instance_id = instance),
    (select '["restart"]'::json from workflow_instances i
     where i.id = instance and i.pruned_at is null), '[]')
$$;

-- Everything that happened in an instance, in its order: steps, notes, sends, calls, what its inbox
-- told it. `data` is what a step was given and gave, or what was sent.
create function instance_timeline(instance uuid) returns table (
  at text, run int, what text, detail text, data json)
language plpgsql stable as $$
#variable_conflict use_column
begin
  return query
  select utc(t.at), t.run, t.what, t.detail, t.data
  from (
    select s.at, 2 as rank, s.seq, s.run::int, s.name || case s.state when 'done' then '' else ' ' || s.state end
             as what,
           left(coalesce(s.output::text, ''), 200) as detail,
           json_strip_nulls(json_build_object('kind', 'step', 'seq', s.seq, 'step', s.branch || '/' || s.ordinal,
             'state', s.state, 'attempt', s.attempt, 'input', s.input, 'output', s.output,
             'took_ms', round(extract(epoch from s.finished_at - s.started_at) * 1000))) as data
    from workflow_step_executions s where s.workflow_instance_id = instance_timeline.instance
      -- What a restart has kept stands where it happened.
      and not exists (select from workflow_step_executions o
                      where o.workflow_instance_id = instance_timeline.instance and o.run < s.run and o.seq = s.seq
                        and o.at = s.at and o.branch = s.branch and o.ordinal = s.ordinal)
    union all
    select n.at, 3, n.ordinal, n.run, 'note', n.text,
           json_build_object('kind', 'note', 'step', n.branch || '/' || n.ordinal, 'text', n.text)
    from workflow_notes n where n.instance_id = instance_timeline.instance
    union all
    select coalesce(m.sent_at, m.decided_at), 1, m.attempt, m.run, m.channel || ' ' || m.state
             || case when m.shadow then ' (shadow)' else '' end,
           concat_ws(', ', 'to ' || coalesce(m.address, 'nobody'), m.rule, m.status, m.error_message,
                     'until ' || utc(m.until), left(coalesce(m.subject, m.body), 100)),
           json_strip_nulls(json_build_object('kind', 'send', 'id', m.id, 'step', m.step, 'call', m.call,
             'attempt', m.attempt, 'channel', m.channel, 'class', m.class, 'to', m.address, 'state', m.state,
             'rule', m.rule, 'until', utc(m.until), 'status', m.status, 'subject', m.subject,
             'text', m.body, 'error', m.error_message, 'settled_by', m.settled_by, 'shadow', m.shadow))
    from messaging_log m where m.instance_id = instance_timeline.instance
    union all
    select o.at, 1, o.attempt, o.run, o.provider || ' ' || o.state
             || case when o.shadow then ' (shadow)' else '' end,
           concat_ws(', ', o.method || ' ' || o.url, o.http_status::text, o.error_message),
           json_strip_nulls(json_build_object('kind', 'call', 'id', o.id, 'step', o.step, 'call', o.call,
             'attempt', o.attempt, 'provider', o.provider, 'effect', o.effect, 'method', o.method,
             'url', o.url, 'request', o.request, 'state', o.state, 'status', o.http_status,
             'response', o.response, 'error', o.error_message, 'shadow', o.shadow))
    from outbound_log o where o.instance_id = instance_timeline.instance
    union all
    select business_of(d.at), 4, 0, null, 'a worker died', d.how,
           json_build_object('kind', 'death', 'worker', d.worker, 'how', d.how)
    from workflow_deaths d where d.instance_id = instance_timeline.instance
    union all
    select coalesce(e.noticed_at, business_now()), 0, 0, null, 'inbox: ' || coalesce(e.type, b.kind),
           concat_ws(', ', b.kind, b.verdict),
           json_strip_nulls(json_build_object('kind', 'inbox', 'asks', b.kind, 'verdict', b.verdict,
             'event', e.id, 'type', e.type))
    from workflow_inbox b left join events e on e.id = b.event_id where b.instance_id = instance_timeline.instance
  ) t
  order by t.at, t.rank, t.seq;
end $$;

-- All of it as one object; the keys stay.
create function instance_show(instance uuid) returns json language sql stable as $$
  select json_build_object(
    'instance', i.id, 'workflow', i.workflow,
    'version', (select d.version from workflow_definitions d where d.id = i.workflow_definition_id),
    'state', coalesce(q.state, i.state), 'mode', i.mode,
    'about', nullif(concat_ws(' ', i.entity, i.entity_id), ''), 'customer_id', i.customer_id,
    'customer', e.payload->'customer'->>'name', 'key', i.business_key,
    'event', json_build_object('id', e.id, 'type', e.type, 'at', utc(e.at)),
    'parent', i.parent_id,
    'children', coalesce((select json_agg(c.id order by c.created_at, c.id) from workflow_instances c
                          where c.parent_id = i.id), '[]'),
    'started', utc(i.created_at), 'finished', utc(i.finished_at), 'run', coalesce(q.run, 1),
    'pruned', utc(i.pruned_at), 'held_by', q.worker, 'next', utc(business_of(q.due)),
    'next_local', local_time(business_of(q.due), zone_of(i.id)), 'zone', zone_of(i.id),
    'queued_behind', (select h.instance_id from workflow_queue h where h.business_key = q.queued_key),
    'outcome', i.outcome, 'reason', i.reason, 'error', i.error,
    'stuck', q.reason,
    'waits', instance_waits(i.id),
    'stops', coalesce((select json_agg(distinct s.type || ' about ' || s.key)
                       from workflow_subscriptions s
                       where s.instance_id = i.id and s.kind = 'stop'), '[]'),
    'can', instance_can(i.id),
    'timeline', coalesce((select json_agg(t) from instance_timeline(i.id) t), '[]'))
  from workflow_instances i
  left join workflow_queue q on q.instance_id = i.id
  left join events e on e.id = i.event_id
  where i.id = instance
$$;

-- The same for people: lines of name and value.
create function instance_facts(instance uuid) returns table (name text, value text)
language sql stable as $$
  select f.name, f.value
  from (select instance_show(instance) as s) x
  cross join lateral (
    values (1, 'instance', s->>'instance'), (2, 'workflow', (s->>'workflow')
        || coalesce(', version ' || (s->>'version'), '')),
      (3, 'state', s->>'state'), (4, 'mode', s->>'mode'), (5, 'about', s->>'about'),
      (6, 'customer', nullif(concat_ws(' ', s->>'customer_id', s->>'customer'), '')),
      (7, 'event', s->'event'->>'type'), (8, 'started', s->>'started'),
      (9, 'finished', s->>'finished'),
      (9, 'kept', 'states and times only: what it carried was removed at ' || (s->>'pruned')),
      (10, 'run', nullif(s->>'run', '1')),
      (11, 'parent', s->>'parent'), (12, 'queued behind', s->>'queued_behind'),
      (13, 'held by', 'worker ' || (s->>'held_by')),
      (14, 'next look', (s->>'next') || ' (' || (s->>'next_local') || ')'),
      (15, 'outcome', s->>'outcome'), (16, 'reason', s->>'reason'), (17, 'error', s->>'error'),
      (18, 'why', s->'stuck'->>'message'), (19, 'code', s->'stuck'->>'code'),
      (20, 'since', s->'stuck'->>'since'),
      (22, 'stopped by', (select string_agg(k.value, '; ') from json_array_elements_text(s->'stops') k)),
      (23, 'can be told', (select string_agg(k.value, ', ') from json_array_elements_text(s->'can') k))
    union all
    select 21, 'waits', (w.value->>'kind') || ' at ' || (w.value->>'step')
      || coalesce(', until ' || (w.value->>'until') || ' (' || (w.value->>'until_local') || ')', '')
      || ', woken by ' || (w.value->>'woken_by')
    from json_array_elements(s->'waits') w
  ) as f (nth, name, value)
  where f.value is not null
  order by f.nth, f.value
$$;

-- Starting by hand -------------------------------------------------------------------------------

-- Asks for an instance of a workflow; detection starts it by its key and limits, as it does a child's.
-- e: an event, or {customer}. Its id to be.
create function start_workflow(wanted text, e json) returns uuid language plpgsql volatile as $$
declare
  child uuid := gen_random_uuid();
begin
  if not exists (select from workflow_definitions d
                 where d.name = wanted and d.active and d.declaration->>'kind' = 'workflow') then
    raise exception 'there is no workflow ''%'' in force', wanted using errcode = 'MWN01';
  elsif json_typeof(e) is distinct from 'object' then
    raise exception 'an event is a JSON object' using errcode = 'MWI01';
  end if;
  insert into arrivals (type, entity, entity_id, at, payload, dedupe)
  values ('start', 'instance', child::text, business_now(),
          json_build_object('instance', child, 'event', gen_random_uuid(), 'detached', true,
                            'workflow', wanted, 'e', e), 'start ' || child);
  perform pg_notify('arrivals', '');
  return child;
end $$;

-- What became of it: its state, or why it didn't start; null: detection hasn't come to it yet.
create function start_outcome(child uuid) returns text language sql stable as $$
  select coalesce(
    (select coalesce(q.state, i.state) from workflow_instances i
     left join workflow_queue q on q.instance_id = i.id where i.id = child),
    (select 'not started: ' || k.reason from events e join workflow_skips k on k.event_id = e.id
     where e.type = 'start' and e.entity = 'instance' and e.entity_id = child::text limit 1),
    (select 'not started: ' || d.message from events e join detect_errors d on d.event_id = e.id
     where e.type = 'start' and e.entity = 'instance' and e.entity_id = child::text limit 1))
$$;

-- An event of a person's word. It must be declared with manual = true, and be about what `payload`
-- carries: {customer = {...}, data = {...}}.
create function emit_by_hand(wanted text, payload json) returns text language plpgsql volatile as $$
declare
  rule json;
  subject text;
begin
  select d.declaration->'events'->wanted into rule
  from workflow_definitions d
  where d.active and d.declaration->'events'->wanted is not null limit 1;
  if rule is null then
    raise exception 'there is no event ''%''', wanted using errcode = 'MWN01';
  elsif not coalesce((rule->>'manual')::boolean, false) then
    raise exception 'event ''%'' comes from elsewhere: only one with manual = true in events.lua is a'
      ' person''s to tell', wanted using errcode = 'MWI01';
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

-- Lists ------------------------------------------------------------------------------------------

create view workflow_list as
  with alive as materialized (select * from versions_alive())
  select d.name as workflow, d.version, d.declaration->>'class' as class,
         concat_ws(' ', (
           select string_agg(e.value #>> '{}', ' ')
           from json_array_elements(case json_typeof(d.declaration->'on') when 'array'
                  then d.declaration->'on' else json_build_array(d.declaration->'on') end) e),
           'at ' || (d.declaration->'schedule'->>'cron')) as "on",
         to_char(d.activated_at at time zone 'UTC', 'YYYY-MM-DD HH24:MI') as since,
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
  where d.active and coalesce(d.declaration->>'kind', 'workflow') = 'workflow'
  group by d.id;

create view event_list as
  select e.id as event, e.type, e.entity || ' ' || e.entity_id as about, e.customer_id as customer,
         utc(e.at) as "of",
         (select string_agg(i.workflow, ' ' order by i.workflow)
          from workflow_instances i where i.event_id = e.id) as started,
         (select string_agg(k.workflow || ': ' || k.reason, '; ' order by k.id)
          from workflow_skips k where k.event_id = e.id) as not_started, e.settled
  from events e;

-- Starts that were not made, or not as they came.
create view start_list as
  select k.id, k.workflow, coalesce(e.type, 'schedule') as event, k.outcome as start,
         k.reason as because, k.at, left(coalesce(nullif(k.detail::text, '{}'), ''), 120) as detail
  from workflow_skips k left join events e on e.id = k.event_id;

create view raised_list as
  select d.id as error, coalesce(d.workflow, d.rule) as where, concat_ws(' ', d.entity, d.entity_id) as about,
         utc(d.at) as since, d.message
  from detect_errors d where d.resolved_at is null;

create view send_list as
  select m.id as send, m.workflow, m.channel || case when m.shadow then ' (shadow)' else '' end as by,
         m.address as "to", m.state, m.rule as why, m.status, m.decided_at as at, m.instance_id as instance
  from messaging_log m
  union all
  select o.id, o.workflow, o.provider || case when o.shadow then ' (shadow)' else '' end,
         o.method || ' ' || o.url, o.state, o.error_message, o.http_status::text, o.at, o.instance_id
  from outbound_log o;

-- The switch between shadow and real sends; null: only say how it is.
create function live_switch(word text) returns text language plpgsql volatile as $$
begin
  insert into settings (name, value) select 'live', word where word is not null
  on conflict (name) do update set value = excluded.value, changed_at = now();
  return (select s.value from settings s where s.name = 'live');
end $$;

-- A person's word on a send by the beginning of its id: {send, was, now}.
create function settle_named(prefix text, verdict text) returns json language plpgsql volatile as $$
declare
  found_ uuid[] := array(
    select m.id from messaging_log m
    where m.id between uuid_edge(prefix, '0') and uuid_edge(prefix, 'f')
    union all
    select o.id from outbound_log o
    where o.id between uuid_edge(prefix, '0') and uuid_edge(prefix, 'f') limit 2);
begin
  if cardinality(found_) = 0 then
    raise exception 'there is no send ''%''; see `moonwright sends list`', prefix using errcode = 'MWN01';
  elsif cardinality(found_) > 1 then
    raise exception 'several sends begin with ''%'': give more of the id', prefix using errcode = 'MWI01';
  end if;
  return json_build_object('send', found_[1], 'was', settle_send(found_[1], verdict), 'now', verdict);
end $$;

-- "2026-06-01", a whole time, or an age such as 90m, 12h, 7d, 2w: business time; null: it is neither.
create function since_of(t text) returns timestamptz language plpgsql volatile as $$
begin
  if t ~ '^\d{1,6}[smhdw]$' then
    return business_now() - left(t, -1)::int * case right(t, 1)
      when 's' then interval '1 second' when 'm' then interval '1 minute'
      when 'h' then interval '1 hour' when 'd' then interval '1 day' else interval '1 week' end;
  elsif t !~ '^\d{4}-\d\d-\d\d' then
    return null;
  elsif t ~ '(Z|[+-]\d\d(:?\d\d)?)$' and length(t) > 10 then
    return t::timestamptz;
  end if;
  return t::timestamp at time zone 'UTC';
exception when data_exception then
  return null;
end $$;

-- How much of everything there is.
create function status_counts() returns json language sql volatile as $$
  select json_build_object(
   'events', coalesce((select json_object_agg(type, n order by type) from
     (select type, count(*) as n from events group by type) t), '{}'),
   'instances', coalesce((select json_object_agg(state, n order by state) from
     (select state, count(*) as n from instances group by state) t), '{}'),
   'sent', json_build_object(
     'sms', (select count(*) from messaging_log where channel = 'sms' and state = 'sent'
              and not shadow),
     'email', (select count(*) from messaging_log where channel = 'email' and state = 'sent'
              and not shadow)),
   'ghl', json_build_object('contacts', (select count(*) from ghl_contacts),
     'opportunities', (select count(*) from ghl_opportunities)),
   'held', (select count(*) from messaging_log where state in ('held', 'in_doubt')),
   'arrivals', (select count(*) from arrivals),
   'due', (select count(*) from workflow_queue where due <= now() or worker is not null),
   'raised', (select count(*) from detect_errors where resolved_at is null),
   'alerts', (select count(*) from system_alerts where resolved_at is null),
   'business', utc(business_now()),
   'paused', coalesce((select json_object_agg(p.workflow, utc(p.since) order by p.workflow)
     from workflow_pauses p), '{}'))
$$;
