-- database: engine
-- What every unit of a worker calls, for speed. The functions are PL/pgSQL where they are asked all
-- the time: a function in SQL that isn't inlined is planned anew at each call. Plans are kept, so
-- each must be right for a queue of a million rows although it may be made on an empty one: the
-- settings of a function forbid what is only ever right on an empty table.

-- Times ------------------------------------------------------------------------------------------

create or replace function business_of(wall timestamptz) returns timestamptz
language plpgsql stable as $$
begin
  return (select c.business_origin + (wall - c.real_origin) * c.scale from clock c);
end $$;

create or replace function real_of(business timestamptz) returns timestamptz
language plpgsql stable as $$
begin
  if business = 'infinity' then
    return business;
  end if;
  return (select c.real_origin + (business - c.business_origin) / c.scale from clock c);
end $$;

-- Stable, as to_char() is: only so is it inlined.
create or replace function utc(at timestamptz) returns text language sql stable as $$
  select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
$$;

-- Steps ------------------------------------------------------------------------------------------

drop function record(uuid, uuid[], uuid[], smallint[], int[], text[], int[], text[], text[], text[],
                     json[], json[], int[]);

-- Writes finished steps. The first row answers ('at', business time of all of them); then one
-- ('lost', instance) for each that this worker doesn't hold; for each step that was there already
-- ('same' or 'differs', instance, seq, its time); and one ('stop', instance, …) for each thing that
-- asks one of them to stop, as stop_candidates() answers. owners are the distinct instances. The state
-- 'note' is a done step that is a line of the timeline.
-- A step that is there already is looked for only `again`, when the unit may have been written
-- before; else it is a unique violation, and the unit has to be sent again so: rows that are inserted
-- without being looked for cost a third less.
create function record(
  me uuid, again boolean, owners uuid[], ids uuid[], runs smallint[], seqs int[], branches text[],
  ordinals int[], states text[], names text[], hashes text[], inputs json[], outputs json[],
  took int[])
returns table (what text, instance uuid, seq int, at text, event uuid, judged boolean,
               settled bigint, payload json)
language plpgsql volatile set enable_seqscan = off as $$
declare
  held uuid[];
  asked uuid[];
  wall timestamptz := clock_timestamp();
  business timestamptz := business_of(wall);
  written int;
begin
  select array_agg(q.instance_id), array_agg(q.instance_id) filter (where q.watched)
  into held, asked
  from workflow_queue q where q.instance_id = any(owners) and q.worker = me;
  held := coalesce(held, '{}');
  if again then
    insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, state,
        name, args_hash, input, output, at, started_at, finished_at)
    select s.id, s.run, s.seq, s.branch, s.ordinal,
           case s.state when 'note' then 'done' else s.state end, s.name, s.hash, s.input, s.output,
           business, wall - s.took * interval '1 ms', wall
    from unnest(ids, runs, seqs, branches, ordinals, states, names, hashes, inputs, outputs, took)
      s(id, run, seq, branch, ordinal, state, name, hash, input, output, took)
    where s.id = any(held)
    on conflict do nothing;
  else
    insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, state,
        name, args_hash, input, output, at, started_at, finished_at)
    select s.id, s.run, s.seq, s.branch, s.ordinal,
           case s.state when 'note' then 'done' else s.state end, s.name, s.hash, s.input, s.output,
           business, wall - s.took * interval '1 ms', wall
    from unnest(ids, runs, seqs, branches, ordinals, states, names, hashes, inputs, outputs, took)
      s(id, run, seq, branch, ordinal, state, name, hash, input, output, took)
    where cardinality(held) = cardinality(owners) or s.id = any(held);
  end if;
  get diagnostics written = row_count;

  what := 'at';
  at := utc(business);
  return next;
  if 'note' = any(states) then
    insert into workflow_notes (instance_id, run, branch, ordinal, text, at)
    select s.id, s.run, s.branch, s.ordinal, s.output->>'text', business
    from unnest(ids, runs, branches, ordinals, states, outputs)
      s(id, run, branch, ordinal, state, output)
    where s.state = 'note' and s.id = any(held)
    on conflict do nothing;
  end if;
  if asked is not null then
    return query select 'stop', c.instance_id, null::int, null::text, c.event_id, c.judged,
                        c.settled, c.payload
                 from stop_candidates(asked) c;
  end if;
  if written = cardinality(ids) then
    return;
  end if;
  return query select 'lost', o.id, null::int, null::text, null::uuid, null::boolean, null::bigint,
                      null::json
               from unnest(owners) o(id) where o.id <> all(held);
  return query
    select case when x.branch = s.branch and x.ordinal = s.ordinal and x.name = s.name
                 and x.args_hash = s.hash and x.output::text is not distinct from s.output::text
                then 'same' else 'differs' end, s.id, s.seq, utc(x.at), null::uuid, null::boolean,
           null::bigint, null::json
    from unnest(ids, runs, seqs, branches, ordinals, names, hashes, outputs)
      s(id, run, seq, branch, ordinal, name, hash, output)
    cross join lateral (select y.* from workflow_step_executions y
                        where y.workflow_instance_id = s.id and y.run = s.run and y.seq = s.seq
                          and y.finished_at <> wall offset 0) x
    where s.id = any(held);
end $$;

-- The question as part of a send's intent: true while a candidate isn't found 'not ours'.
create or replace function stop_pending(instance uuid) returns boolean
language plpgsql volatile as $$
begin
  return exists (select from stop_candidates(array[instance]));
end $$;

-- Claiming ---------------------------------------------------------------------------------------

-- As before, with a plan that is kept. What is due comes from the index in its order, whatever the
-- planner knew of the table.
create or replace function claim(me uuid, n int) returns table (
  instance_id uuid, epoch int, definition int, run smallint, state text, reason json,
  instance text, event json, steps json, seq int, stops json, watched boolean, flow smallint)
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
begin
  return query
  with u as (
    update workflow_queue q
    set worker = me, epoch = q.epoch + 1,
        state = case when q.state in ('stuck', 'paused', 'stopping') then q.state
                     else 'running' end
    where q.instance_id = any(array(
      select p.instance_id
      from (values (0::smallint), (1::smallint), (2::smallint), (3::smallint)) c(priority)
      cross join lateral (
        select w.instance_id from workflow_queue w
        where w.priority = c.priority and w.due <= now() and w.worker is null
        order by w.due limit n for update skip locked) p
      limit n))
    returning q.instance_id, q.epoch, q.workflow_definition_id, q.run, q.state, q.reason,
              q.watched, q.event_id, q.flow)
  select u.instance_id, u.epoch, u.workflow_definition_id, u.run, u.state, u.reason,
    (select i.mode || ' ' || utc(i.created_at) from workflow_instances i
     where i.id = u.instance_id),
    (select e.payload from events e where e.id = u.event_id),
    case when u.epoch > 1 then (
      select json_agg(json_build_array(x.seq, x.branch, x.ordinal, x.name, x.args_hash, x.state,
                                       utc(x.at), x.output) order by x.seq)
      from workflow_step_executions x
      where x.workflow_instance_id = u.instance_id and x.run = u.run) end,
    case when u.epoch > 1 then coalesce((
      select max(x.seq) from workflow_step_executions x
      where x.workflow_instance_id = u.instance_id and x.run = u.run), 0) else 0 end,
    case
      when u.state = 'stopping' then json_build_array(json_build_array(
        u.reason->>'by', false, 0,
        coalesce((select e.payload from events e where e.id = (u.reason->>'by')::uuid
                  and u.reason->>'name' = e.type), json_build_object('name', u.reason->>'name'))))
      when u.watched then (
        select json_agg(json_build_array(c.event_id, c.judged, c.settled, c.payload)
                        order by c.settled)
        from stop_candidates(array[u.instance_id]) c)
    end,
    u.watched, u.flow
  from u;
end $$;

-- Real milliseconds until something is due: null when nothing ever is, never below 0.
create or replace function next_due() returns bigint language plpgsql stable
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off as $$
declare
  first timestamptz;
begin
  select min(d.due) into first
  from (values (0::smallint), (1::smallint), (2::smallint), (3::smallint)) c(priority)
  cross join lateral (select w.due from workflow_queue w
                      where w.priority = c.priority and w.worker is null and w.due is not null
                      order by w.due limit 1) d;
  if first is null then -- greatest() passes over a null
    return null;
  end if;
  return greatest(0, ceil(extract(epoch from first - clock_timestamp()) * 1000));
end $$;

-- Ending -----------------------------------------------------------------------------------------

drop function instances_ended(uuid[]);

-- Called with the instances that have just ended and the keys they held, in the same transaction: the
-- oldest that queues behind each key begins.
create function instances_ended(ended uuid[], keys text[]) returns void
language plpgsql volatile set enable_seqscan = off as $$
begin
  if not exists (select from workflow_queue w where w.queued_key = any(keys)) then
    return;
  end if;
  update workflow_queue q
  set business_key = q.queued_key, queued_key = null,
      due = case when q.worker is null then clock_timestamp() end
  where q.instance_id = any(array(
    select (select w.instance_id from workflow_queue w
            where w.queued_key = k.key order by w.since, w.instance_id limit 1)
    from (select distinct x.key from unnest(keys) x(key)) k
    where not exists (select from workflow_queue h where h.business_key = k.key)));
end $$;

-- Ends instances. results holds {state, outcome, reason, error} by instance where it isn't plainly
-- done. What they held is free: their keys, subscriptions, waits.
create or replace function finish(me uuid, ids uuid[], results jsonb) returns void
language plpgsql volatile set enable_seqscan = off as $$
declare
  ended uuid[];
  watching uuid[];
  parents uuid[];
  keys text[];
  business timestamptz := business_now();
begin
  with d as (delete from workflow_queue q where q.instance_id = any(ids) and q.worker = me
             returning q.instance_id, q.watched, q.epoch, q.parent_id, q.business_key)
  select array_agg(d.instance_id order by d.instance_id),
         coalesce(array_agg(d.instance_id) filter (where d.watched or d.epoch > 1), '{}'),
         array_agg(distinct d.parent_id) filter (where d.parent_id is not null),
         coalesce(array_agg(d.business_key) filter (where d.business_key is not null), '{}')
  into ended, watching, parents, keys from d;
  if ended is null then
    return;
  end if;
  if results is null then
    update workflow_instances i
    set state = 'done', finished_at = business, outcome = null, reason = null, error = null
    where i.id = any(ended);
  else
    update workflow_instances i
    set state = coalesce(results->i.id::text->>'state', 'done'), finished_at = business,
        outcome = results->i.id::text->>'outcome', reason = results->i.id::text->>'reason',
        error = results->i.id::text->>'error',
        value = case when i.parent_id is not null then (results->i.id::text->'value')::json end
    where i.id = any(ended);
  end if;
  with w as (delete from workflow_waits x where x.instance_id = any(ended)
             returning x.instance_id)
  select watching || coalesce(array_agg(w.instance_id), '{}') into watching from w;
  if cardinality(watching) > 0 then
    delete from workflow_subscriptions s where s.instance_id = any(watching);
    delete from workflow_inbox b where b.instance_id = any(watching);
    -- What was postponed will not leave any more.
    update messaging_log m set state = 'suppressed', rule = 'ended', until = null
    where m.instance_id = any(watching) and m.state = 'postponed';
  end if;
  perform instances_ended(ended, keys);
  if results is not null then
    perform stop_children(array(select r.key::uuid from jsonb_each(results) r
                                where r.key::uuid = any(ended)
                                  and r.value->>'state' in ('stopped', 'cancelled')));
  end if;
  if parents is not null then
    perform children_ended(parents);
  end if;
end $$;
