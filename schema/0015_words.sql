-- database: engine
-- The words of `run` that write in our own tables. Each is one call of the step that asks for it, in
-- a fenced unit; ids come from the step's place in its instance, so that a step which runs again
-- finds what it did before.

create function id_of(place text) returns uuid language sql immutable as $$
  select substr(encode(sha256(convert_to(place, 'UTF8')), 'hex'), 1, 32)::uuid
$$;

-- Children ---------------------------------------------------------------------------------------

-- Asks for a child. Detection starts it, by the keys and limits of its workflow. {id}, or {refused}.
create function start_child(parent uuid, place text, wanted text, e json, detached boolean)
returns json language plpgsql volatile as $$
declare
  child uuid := id_of(place);
begin
  if exists (select from workflow_instances i where i.id = child) then
    return json_build_object('id', child);
  elsif not exists (select from workflow_definitions d where d.name = wanted and d.active) then
    return json_build_object('refused', 'there is no workflow "' || wanted || '"');
  end if;
  insert into arrivals (type, entity, entity_id, at, payload, dedupe)
  values ('start', 'instance', parent::text, business_now(),
          json_build_object('instance', child, 'event', id_of(place || ' event'), 'parent', parent,
                            'detached', detached, 'workflow', wanted, 'e', e),
          'start ' || child)
  on conflict do nothing;
  perform pg_notify('arrivals', '');
  return json_build_object('id', child);
end $$;

-- Whether a child may be started: not twice, and not for a parent that was stopped. The parent's row
-- is locked, so that its stop either sees this child or is seen here.
create function child_may_start(child uuid, parent uuid, detached boolean, workflow text,
                                event uuid) returns boolean language plpgsql volatile as $$
declare
  q record;
  stopped boolean;
begin
  if exists (select from workflow_instances i where i.id = child) then
    return false;
  elsif detached then
    return true;
  end if;
  select x.state, x.reason into q from workflow_queue x
  where x.instance_id = parent for no key update;
  if found then
    stopped := q.state = 'stopping' or q.reason->'stopping' is not null;
  else
    stopped := (select i.state in ('stopped', 'cancelled') from workflow_instances i
                where i.id = parent);
  end if;
  if stopped then
    insert into workflow_skips (workflow, event_id, reason, detail, at)
    values (workflow, event, 'parent stopped', json_build_object('instance', parent),
            business_now())
    on conflict do nothing;
  end if;
  return not coalesce(stopped, true);
end $$;

-- Children that could not be started end here, so that whoever waits for them is told why.
create function children_not_started(list json) returns void language plpgsql volatile as $$
declare
  parents uuid[];
begin
  with gone as (
    insert into workflow_instances (id, workflow_definition_id, workflow, mode, state, event_id,
                                    customer_id, entity, entity_id, created_at, finished_at,
                                    reason, parent_id, detached)
    select x.instance, coalesce(x.definition, 0), x.workflow, p.mode, 'stopped', x.event,
           e.customer_id, e.entity, e.entity_id, business_now(), business_now(),
           coalesce(x.refused, (select 'not started: ' || k.reason from workflow_skips k
                                where k.workflow = x.workflow and k.event_id = x.event
                                order by k.id limit 1), 'not started'), x.parent, x.detached
    from json_to_recordset(list) as x (instance uuid, definition int, workflow text, event uuid,
                                       parent uuid, detached boolean, refused text)
    join workflow_instances p on p.id = x.parent
    left join events e on e.id = x.event
    where x.parent is not null
    order by x.instance
    on conflict do nothing
    returning parent_id)
  select array_agg(distinct gone.parent_id) into parents from gone;
  if parents is not null then
    perform children_ended(parents);
  end if;
end $$;

-- Children of these have ended: those that wait for one look again. One that a worker holds is told
-- by its inbox. Waits are registered with the instance's row locked, as here.
create function children_ended(parents uuid[]) returns void language plpgsql volatile as $$
begin
  perform 1 from workflow_queue q where q.instance_id = any(parents)
  order by q.instance_id for no key update;
  insert into workflow_inbox (instance_id, event_id, kind, settled)
  select q.instance_id, '00000000-0000-0000-0000-000000000000', 'wait', 0
  from workflow_queue q
  where q.instance_id = any(parents) and q.worker is not null
    and exists (select from workflow_waits w where w.instance_id = q.instance_id
                  and w.kind = 'child')
  order by q.instance_id
  on conflict (instance_id, event_id, kind) do update set verdict = null;
  update workflow_queue q set due = clock_timestamp()
  where q.instance_id = any(parents) and q.worker is null
    and q.state not in ('stuck', 'paused', 'stopping')
    and exists (select from workflow_waits w where w.instance_id = q.instance_id
                  and w.kind = 'child');
end $$;

-- These were stopped: so are their children, but for the detached.
create function stop_children(parents uuid[]) returns void language sql volatile as $$
  select stop_instance(q.instance_id, 'parent stopped')
  from (select x.instance_id from workflow_queue x
        join workflow_instances i on i.id = x.instance_id
        where x.parent_id = any(parents) and not i.detached order by x.instance_id) q
$$;

-- Events -----------------------------------------------------------------------------------------

-- An event of the company's own. What an instance in shadow mode emits would start and stop real
-- ones, so it stays unsaid, unless nothing is real.
create function emit_event(emitter uuid, place text, type text, of text, of_id text, payload json)
returns json language plpgsql volatile as $$
declare
  said uuid := id_of(place);
begin
  if (select i.mode from workflow_instances i where i.id = emitter) = 'shadow'
     and exists (select from settings s where s.name = 'live' and s.value = 'on') then
    return json_build_object('id', 'shadow:' || said, 'shadow', true);
  end if;
  if not exists (select from events e where e.id = said) then
    insert into arrivals (type, entity, entity_id, at, payload, dedupe)
    values (type, of, of_id, business_now(),
            (payload::jsonb || jsonb_build_object('event_id', said))::json, 'emit ' || said)
    on conflict do nothing;
    perform pg_notify('arrivals', '');
  end if;
  return json_build_object('id', said);
end $$;

-- A signal reaches one live instance: the one whose id begins so. The instance's id.
create function signal_instance(prefix text, name text, data json) returns uuid
language plpgsql volatile as $$
declare
  found_ uuid[];
begin
  if name !~ '^[a-z][a-z0-9_]*$' then
    raise exception '"%" is no name of a signal: lower-case letters, digits and _', name
      using errcode = 'MWI01';
  end if;
  found_ := array(select q.instance_id from workflow_queue q
                  where q.instance_id::text like prefix || '%' limit 2);
  if cardinality(found_) <> 1 then
    raise exception 'there is no live instance ''%'', or several begin so', prefix
      using errcode = 'MWI01';
  end if;
  insert into arrivals (type, entity, entity_id, at, payload)
  values ('signal_' || name, 'instance', found_[1]::text, business_now(),
          json_strip_nulls(json_build_object('instance', found_[1], 'data', data)));
  perform pg_notify('arrivals', '');
  return found_[1];
end $$;

-- Runs ------------------------------------------------------------------------------------------

-- The next run of an instance begins: an empty history, an event of its own, the same key and stops.
-- What its last run consumed stays consumed.
create function continue_instance(instance uuid, e json) returns void
language plpgsql volatile as $$
declare
  event uuid := gen_random_uuid();
  business timestamptz := business_now();
begin
  insert into events (id, type, entity, entity_id, at, noticed_at, settled, customer_id, payload)
  select event, 'continued', 'instance', instance::text, business, business, q.since,
         i.customer_id, (e::jsonb || jsonb_build_object('id', event))::json
  from workflow_queue q join workflow_instances i on i.id = q.instance_id
  where q.instance_id = instance;
  delete from workflow_waits w where w.instance_id = instance;
  delete from workflow_subscriptions s where s.instance_id = instance and s.kind = 'wait';
  update workflow_queue q set run = q.run + 1, event_id = event where q.instance_id = instance;
end $$;
