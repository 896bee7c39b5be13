-- database: engine
-- What a unit looks up for each of its steps and claims.

-- What people and other stages have asked of instances that a worker holds, and it has not answered:
-- next to nothing, at any time.
create index workflow_inbox_asked on workflow_inbox (instance_id)
  where kind in ('cancelled', 'replaced', 'deleted', 'merged', 'paused', 'parent stopped');

drop function record(uuid, boolean, uuid[], uuid[], smallint[], int[], text[], int[], text[], text[],
                     text[], json[], json[], int[]);

-- As before, and the queue isn't looked at for each step. Who holds an instance keeps it: nobody takes
-- it while the lease lasts that this unit has locked, so what the worker was granted and hasn't given
-- back is its own. Only a unit that may have been written before may also have given it back: then,
-- `again`, each is looked for. `watched` are those that had stop subscriptions when they were claimed;
-- what else may ask one to stop is in its inbox. Empty stand for what is the same for each step of an
-- ordinary unit, not `again` and without notes: run 1, the branch '', the ordinal that is the seq, 'done'.
create function record(
  me uuid, again boolean, watched uuid[], ids uuid[], runs smallint[], seqs int[], branches text[],
  ordinals int[], states text[], names text[], hashes text[], inputs json[], outputs json[],
  took int[])
returns table (what text, instance uuid, seq int, at text, event uuid, judged boolean,
               settled bigint, payload json)
language plpgsql volatile set enable_seqscan = off
set plan_cache_mode = force_generic_plan as $$
declare
  held uuid[];
  wall timestamptz := clock_timestamp();
  business timestamptz := business_of(wall);
  written int;
begin
  if again then
    held := array(select q.instance_id
                  from workflow_queue q where q.instance_id = any(ids) and q.worker = me);
    insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, state,
        name, args_hash, input, output, at, started_at, finished_at)
    select ids[i], runs[i], seqs[i], branches[i], ordinals[i],
           case states[i] when 'note' then 'done' else states[i] end, names[i], hashes[i], inputs[i],
           outputs[i], business, wall - took[i] * interval '100 us', wall
    from generate_series(1, cardinality(ids)) i
    where ids[i] = any(held)
    on conflict do nothing;
  else
    insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, state,
        name, args_hash, input, output, at, started_at, finished_at)
    select ids[i], coalesce(runs[i], 1::smallint), seqs[i], coalesce(branches[i], ''),
           coalesce(ordinals[i], seqs[i]),
           case states[i] when 'note' then 'done' else coalesce(states[i], 'done') end, names[i],
           hashes[i], inputs[i], outputs[i], business, wall - took[i] * interval '100 us', wall
    from (select generate_series(1, cardinality(ids)) as i offset 0) n;
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
    where s.state = 'note' and (held is null or s.id = any(held))
    on conflict do nothing;
  end if;
  if exists (select from workflow_inbox b
             where b.kind in ('cancelled', 'replaced', 'deleted', 'merged', 'paused',
                              'parent stopped')) then
    watched := ids;
  end if;
  if cardinality(watched) > 0 then
    return query select 'stop', c.instance_id, null::int, null::text, c.event_id, c.judged,
                        c.settled, c.payload
                 from stop_candidates(watched) c
                 where held is null or c.instance_id = any(held);
  end if;
  if written = cardinality(ids) then
    return;
  end if;
  return query select 'lost', o.id, null::int, null::text, null::uuid, null::boolean, null::bigint,
                      null::json
               from (select distinct i.id from unnest(ids) i(id)) o where o.id <> all(held);
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

-- As before; what is claimed is answered as it is written, and kept nowhere in between.
create or replace function claim(me uuid, n int) returns table (
  instance_id uuid, epoch int, definition int, run smallint, state text, reason json,
  instance text, event json, steps json, seq int, stops json, watched boolean, flow smallint)
language plpgsql volatile
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off
set plan_cache_mode = force_generic_plan as $$
begin
  return query
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
    (select i.mode || ' ' || utc(i.created_at) from workflow_instances i
     where i.id = q.instance_id),
    (select e.payload from events e where e.id = q.event_id),
    case when q.epoch > 1 then (
      select json_agg(json_build_array(x.seq, x.branch, x.ordinal, x.name, x.args_hash, x.state,
                                       utc(x.at), x.output) order by x.seq)
      from workflow_step_executions x
      where x.workflow_instance_id = q.instance_id and x.run = q.run) end,
    case when q.epoch > 1 then coalesce((
      select max(x.seq) from workflow_step_executions x
      where x.workflow_instance_id = q.instance_id and x.run = q.run), 0) else 0 end,
    case
      when q.state = 'stopping' then json_build_array(json_build_array(
        q.reason->>'by', false, 0,
        coalesce((select e.payload from events e where e.id = (q.reason->>'by')::uuid
                  and q.reason->>'name' = e.type), json_build_object('name', q.reason->>'name'))))
      when q.watched then (
        select json_agg(json_build_array(c.event_id, c.judged, c.settled, c.payload)
                        order by c.settled)
        from stop_candidates(array[q.instance_id]) c)
    end,
    q.watched, q.flow;
end $$;
