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

-- As before; an array that is a parameter of the function gives its nth element at once, without
-- eleven functions that hand over rows; and no aggregate is prepared for each unit.
create or replace function record(
  me uuid, again boolean, owners uuid[], ids uuid[], runs smallint[], seqs int[], branches text[],
  ordinals int[], states text[], names text[], hashes text[], inputs json[], outputs json[],
  took int[])
returns table (what text, instance uuid, seq int, at text, event uuid, judged boolean,
               settled bigint, payload json)
language plpgsql volatile set enable_seqscan = off
set plan_cache_mode = force_generic_plan as $$
declare
  found_ uuid[];   -- one for each that is held: its id if it is watched, else null
  held uuid[];     -- null: all of them are
  asked uuid[];
  wall timestamptz := clock_timestamp();
  business timestamptz := business_of(wall);
  written int;
begin
  found_ := array(select case when q.watched then q.instance_id end
                  from workflow_queue q where q.instance_id = any(owners) and q.worker = me);
  asked := array_remove(found_, null);
  if cardinality(found_) < cardinality(owners) then
    held := array(select q.instance_id
                  from workflow_queue q where q.instance_id = any(owners) and q.worker = me);
  end if;
  if again then
    insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, state,
        name, args_hash, input, output, at, started_at, finished_at)
    select ids[i], runs[i], seqs[i], branches[i], ordinals[i],
           case states[i] when 'note' then 'done' else states[i] end, names[i], hashes[i], inputs[i],
           outputs[i], business, wall - took[i] * interval '100 us', wall
    from generate_series(1, cardinality(ids)) i
    where held is null or ids[i] = any(held)
    on conflict do nothing;
  else
    insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, state,
        name, args_hash, input, output, at, started_at, finished_at)
    select ids[i], runs[i], seqs[i], branches[i], ordinals[i],
           case states[i] when 'note' then 'done' else states[i] end, names[i], hashes[i], inputs[i],
           outputs[i], business, wall - took[i] * interval '100 us', wall
    from generate_series(1, cardinality(ids)) i
    where held is null or ids[i] = any(held);
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
  if cardinality(asked) > 0 then
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
    where held is null or s.id = any(held);
end $$;

-- As before, with less to prepare: what is rarely there is looked for before it is handled.
create or replace function finish(me uuid, ids uuid[], results jsonb) returns void
language plpgsql volatile set enable_seqscan = off
set plan_cache_mode = force_generic_plan as $$
declare
  ended uuid[];
  watching uuid[];
  parents uuid[];
  keys text[];
  business timestamptz := business_now();
begin
  with d as (delete from workflow_queue q where q.instance_id = any(ids) and q.worker = me
             returning q.instance_id, q.watched, q.epoch, q.parent_id, q.business_key)
  select array_agg(d.instance_id),
         coalesce(array_agg(d.instance_id) filter (where d.watched or d.epoch > 1), '{}'),
         array_agg(d.parent_id) filter (where d.parent_id is not null),
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
  if exists (select from workflow_waits x where x.instance_id = any(ended)) then
    with w as (delete from workflow_waits x where x.instance_id = any(ended)
               returning x.instance_id)
    select watching || coalesce(array_agg(w.instance_id), '{}') into watching from w;
  end if;
  if cardinality(watching) > 0 then
    delete from workflow_subscriptions s where s.instance_id = any(watching);
    delete from workflow_inbox b where b.instance_id = any(watching);
    -- What was postponed will not leave any more.
    update messaging_log m set state = 'suppressed', rule = 'ended', until = null
    where m.instance_id = any(watching) and m.state = 'postponed';
  end if;
  if exists (select from workflow_queue w where w.queued_key is not null) then
    perform instances_ended(ended, keys);
  end if;
  if results is not null then
    perform stop_children(array(select r.key::uuid from jsonb_each(results) r
                                where r.key::uuid = any(ended)
                                  and r.value->>'state' in ('stopped', 'cancelled')));
  end if;
  if parents is not null then
    perform children_ended(parents);
  end if;
end $$;
