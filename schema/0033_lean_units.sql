-- database: engine
-- What a unit costs PostgreSQL.

-- A claim changes no column that an index knows, so its new row version stays on the page and comes into
-- no index (HOT). The price: what is held stays in the claim's index, which passes over it. More than half of
-- each page is kept free, as all rows of a page are claimed at once and grow by their worker.
alter table workflow_queue set (fillfactor = 45);
drop index workflow_queue_claim;
create index workflow_queue_claim on workflow_queue (priority, due);
-- A claim changes `state`, never `reason`; whatever is stuck has one.
drop index workflow_queue_stuck;
create index workflow_queue_reason on workflow_queue ((reason->>'code')) where reason is not null;

-- One plan, made once: with the arrays of each call in it, another one would look cheaper and be made
-- anew at each call.
alter function claim(uuid, int) set plan_cache_mode = force_generic_plan;
alter function finish(uuid, uuid[], jsonb) set plan_cache_mode = force_generic_plan;

-- As before; an array that is a parameter of the function gives its nth element at once, without
-- eleven functions that hand over rows.
create or replace function record(
  me uuid, again boolean, owners uuid[], ids uuid[], runs smallint[], seqs int[], branches text[],
  ordinals int[], states text[], names text[], hashes text[], inputs json[], outputs json[],
  took int[])
returns table (what text, instance uuid, seq int, at text, event uuid, judged boolean,
               settled bigint, payload json)
language plpgsql volatile set enable_seqscan = off
set plan_cache_mode = force_generic_plan as $$
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
    select ids[i], runs[i], seqs[i], branches[i], ordinals[i],
           case states[i] when 'note' then 'done' else states[i] end, names[i], hashes[i], inputs[i],
           outputs[i], business, wall - took[i] * interval '100 us', wall
    from generate_series(1, cardinality(ids)) i
    where ids[i] = any(held)
    on conflict do nothing;
  else
    insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, state,
        name, args_hash, input, output, at, started_at, finished_at)
    select ids[i], runs[i], seqs[i], branches[i], ordinals[i],
           case states[i] when 'note' then 'done' else states[i] end, names[i], hashes[i], inputs[i],
           outputs[i], business, wall - took[i] * interval '100 us', wall
    from generate_series(1, cardinality(ids)) i
    where cardinality(held) = cardinality(owners) or ids[i] = any(held);
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

-- As before; that nothing queues at all is one look, not one for each key.
create or replace function instances_ended(ended uuid[], keys text[]) returns void
language plpgsql volatile set enable_seqscan = off as $$
begin
  if not exists (select from workflow_queue w where w.queued_key is not null)
     or not exists (select from workflow_queue w where w.queued_key = any(keys)) then
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
