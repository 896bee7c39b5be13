-- database: engine
-- The functions by which workers hold, run and end instances. Every unit of a worker calls fence()
-- first; after it nothing can take an instance from that worker before the unit commits, because
-- a takeover deletes the row that fence() has locked.

-- The lease --------------------------------------------------------------------------------------

-- KEY SHARE is enough to make a takeover's DELETE wait for this unit, and doesn't make the renewal of
-- the lease, an update of other columns, wait for all units in flight.
create function fence(me uuid) returns void language plpgsql volatile as $$
begin
  perform 1 from workflow_workers w where w.id = me and w.until > clock_timestamp() for key share;
  if not found then
    raise exception 'the lease of worker % is gone', me using errcode = 'MWF01';
  end if;
end $$;

create function lock_gate() returns void language plpgsql volatile as $$
begin
  perform 1 from gate for update;
end $$;

create function worker_enter(me uuid, machine text, pid int, born bigint, role text, lease_ms int)
returns void language sql volatile as $$
  insert into workflow_workers (id, machine, pid, born, role, until)
  values (me, machine, pid, born, role, clock_timestamp() + lease_ms * interval '1 ms')
  on conflict do nothing
$$;

-- The beat when the lease was still ours, else no row.
create function worker_renew(me uuid, lease_ms int) returns setof bigint
language sql volatile as $$
  update workflow_workers w
  set beat = w.beat + 1, until = clock_timestamp() + lease_ms * interval '1 ms'
  where w.id = me and w.until > clock_timestamp()
  returning w.beat
$$;

-- Removes a worker whose lease ran out at this beat, or, when we know that its process is gone
-- (the beat is null), whatever its lease. Its instances are free again. How many; null: not removed.
create function takeover(dead uuid, seen bigint) returns bigint language plpgsql volatile as $$
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
  return released;
end $$;

-- Frees what this worker holds without knowing it: a claim whose answer was lost.
create function release_unknown(me uuid, known uuid[]) returns bigint language plpgsql volatile as $$
declare
  released bigint;
begin
  update workflow_queue q set worker = null
  where q.instance_id = any(array(
    select p.instance_id from workflow_queue p
    where p.worker = me and p.instance_id not in (select unnest(known))
    order by p.instance_id for no key update));
  get diagnostics released = row_count;
  return released;
end $$;

-- Steps ------------------------------------------------------------------------------------------

-- Writes finished steps. The first row answers ('at', business time of all of them); then one
-- ('lost', instance) for each that this worker doesn't hold, and for each step that was there
-- already ('same' or 'differs', instance, seq, its time): a unit that is sent again finds its own.
-- owners are the distinct instances. The state 'note' is a done step that is a line of the timeline.
create function record(
  me uuid, owners uuid[], ids uuid[], runs smallint[], seqs int[], branches text[], ordinals int[],
  states text[], names text[], hashes text[], inputs json[], outputs json[], took int[])
returns table (what text, instance uuid, seq int, at text) language plpgsql volatile as $$
declare
  held uuid[];
  wall timestamptz := clock_timestamp();
  business timestamptz := business_of(wall);
  written int;
begin
  held := array(select q.instance_id from workflow_queue q
                where q.instance_id = any(owners) and q.worker = me);
  insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal, state,
      name, args_hash, input, output, at, started_at, finished_at)
  select s.id, s.run, s.seq, s.branch, s.ordinal,
         case s.state when 'note' then 'done' else s.state end, s.name, s.hash, s.input, s.output,
         business, wall - s.took * interval '1 ms', wall
  from unnest(ids, runs, seqs, branches, ordinals, states, names, hashes, inputs, outputs, took)
    s(id, run, seq, branch, ordinal, state, name, hash, input, output, took)
  where cardinality(held) = cardinality(owners) or s.id = any(held)
  on conflict do nothing;
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
  if written = cardinality(ids) then
    return;
  end if;
  return query select 'lost', o.id, null::int, null::text from unnest(owners) o(id)
               where o.id <> all(held);
  return query
    select case when x.branch = s.branch and x.ordinal = s.ordinal and x.name = s.name
                 and x.args_hash = s.hash and x.output::text is not distinct from s.output::text
                then 'same' else 'differs' end, s.id, s.seq, utc(x.at)
    from unnest(ids, runs, seqs, branches, ordinals, names, hashes, outputs)
      s(id, run, seq, branch, ordinal, name, hash, output)
    cross join lateral (select y.* from workflow_step_executions y
                        where y.workflow_instance_id = s.id and y.run = s.run and y.seq = s.seq
                          and y.finished_at <> wall offset 0) x
    where s.id = any(held);
end $$;

-- Stops ------------------------------------------------------------------------------------------

-- What asks these instances to stop: events they subscribed to, settled after their trigger and not
-- found 'not ours' (a judged one needs Lua's word), and requests of people or of detection, whose
-- payload is {"name": "cancelled" | "replaced" | "deleted" | "paused"}. Oldest first.
create function stop_candidates(instances uuid[]) returns table (
  instance_id uuid, event_id uuid, judged boolean, payload json, settled bigint)
language plpgsql volatile as $$
declare
  asked uuid[];
begin
  asked := array(select q.instance_id from workflow_queue q
                 where q.instance_id = any(instances) and q.watched and q.state <> 'stopping'
                   and q.reason->'stopping' is null);
  if cardinality(asked) = 0 then
    return;
  end if;
  return query
    select s.instance_id, k.event_id, s.judged,
           (select e.payload from events e where e.id = k.event_id), k.settled
    from workflow_subscriptions s
    cross join lateral (select x.event_id, x.settled from event_keys x
                        where x.key = s.key and x.type = s.type and x.settled > s.since
                        offset 0) k
    where s.instance_id = any(asked) and s.kind = 'stop'
      and not exists (select from workflow_inbox b
                      where b.instance_id = s.instance_id and b.event_id = k.event_id
                        and b.kind = 'stop' and b.verdict = 'not ours')
    union all
    select b.instance_id, b.event_id, false, json_build_object('name', b.kind), b.settled
    from workflow_inbox b
    where b.instance_id = any(asked)
      and b.kind in ('cancelled', 'replaced', 'deleted', 'merged', 'paused', 'parent stopped')
    order by 5;
end $$;

-- The same question as part of a send's intent: true while a candidate isn't found 'not ours'.
create function stop_pending(instance uuid) returns boolean language sql volatile as $$
  select exists (select from stop_candidates(array[instance]))
$$;

create function stop_not_ours(me uuid, instances uuid[], events uuid[], settled bigint[])
returns void language sql volatile as $$
  insert into workflow_inbox (instance_id, event_id, kind, settled, verdict)
  select s.instance, s.event, 'stop', s.settled, 'not ours'
  from unnest(instances, events, settled) s(instance, event, settled)
  where (select q.worker from workflow_queue q where q.instance_id = s.instance) = me
  order by s.instance, s.event
  on conflict (instance_id, event_id, kind) do update set verdict = excluded.verdict
$$;

-- Claiming ---------------------------------------------------------------------------------------

-- What is due, by priority and time, at most n. An epoch of 1 has nothing to replay. `instance` is
-- its mode and when it was created; `steps` is the recorded history as the body reads it, `seq` the
-- last of it; `stops` is [[event id, judged, settled, payload], ...]: what asks it to stop, or, when
-- it is stopping already, what it is stopping for.
create function claim(me uuid, n int) returns table (
  instance_id uuid, epoch int, definition int, run smallint, state text, reason json,
  instance text, event json, steps json, seq int, stops json, watched boolean)
language sql volatile as $$
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
              q.watched, q.event_id)
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
    u.watched
  from u
$$;

-- Real milliseconds until something is due: null when nothing ever is, never below 0.
create function next_due() returns bigint language sql stable as $$
  select case when min(d.due) is not null then -- greatest() passes over a null
           greatest(0, ceil(extract(epoch from min(d.due) - clock_timestamp()) * 1000))::bigint end
  from (values (0::smallint), (1::smallint), (2::smallint), (3::smallint)) c(priority)
  cross join lateral (select w.due from workflow_queue w
                      where w.priority = c.priority and w.worker is null and w.due is not null
                      order by w.due limit 1) d
$$;

-- Waiting ----------------------------------------------------------------------------------------

-- Whether facts up to this business time may still be unsettled. With two databases the changes are
-- out of sight here, and detection says how far it has come.
create function detection_behind(business timestamptz) returns boolean
language plpgsql volatile as $$
declare
  behind boolean;
begin
  if exists (select from arrivals a where a.at <= business) then
    return true;
  end if;
  if to_regclass('changes') is null then
    return exists (select from detector d where d.reached < real_of(business));
  end if;
  execute 'select exists (select from changes c where c.noticed_at <= $1)'
    into behind using real_of(business);
  return behind;
end $$;

-- Sleeps and waits, in a unit that has locked the gate when a wait is among them. Each element:
-- {i, kind, instance, run, branch, ordinal, seq, name, hash, input, deadline, release} and for
-- kind "event" {types: [{type, keys}], judged, since, after, chosen}, or {child}: its end.
-- Answers, by i:
--   lost      this worker doesn't hold it
--   done      decided and recorded as step seq at `at`, with `payload` as its output
--   judge     a candidate for Lua, several rows, oldest first
--   waits     registered; `released` when the instance isn't ours any more
--   behind    past its deadline, but detection isn't: like waits, for a moment
create function suspend(me uuid, list json) returns table (
  i int, result text, at text, event_id uuid, settled bigint, payload json)
language plpgsql volatile as $$
declare
  w json;
  q record;
  c record;
  base bigint;
  deadline timestamptz;
  since_at timestamptz;
  id uuid;
  run_ smallint;
  found_ boolean;
  output_ json;
  wall timestamptz := clock_timestamp();
  business timestamptz := business_of(wall);
begin
  -- Of one instance in the order of its branches: the first one gets the event.
  for w in select e.value from json_array_elements(list) e
           order by e.value->>'instance', (e.value->>'i')::int loop
    i := (w->>'i')::int;
    result := null; at := null; event_id := null; settled := null; payload := null;
    id := (w->>'instance')::uuid;
    run_ := (w->>'run')::smallint;
    deadline := (w->>'deadline')::timestamptz;
    select x.since, x.event_id as trigger, x.run into q
    from workflow_queue x where x.instance_id = id and x.worker = me for no key update;
    if not found then
      result := 'lost';
      return next;
      continue;
    end if;

    -- Sent again after an unknown outcome: it may be decided already.
    select x.at, x.output into c from workflow_step_executions x
    where x.workflow_instance_id = id and x.run = run_ and x.seq = (w->>'seq')::int
      and x.branch = w->>'branch' and x.ordinal = (w->>'ordinal')::int;
    if found then
      result := 'done'; at := utc(c.at); payload := c.output;
      return next;
      continue;
    end if;

    output_ := null;
    found_ := false;
    if w->>'child' is not null then
      insert into workflow_waits (instance_id, run, branch, ordinal, kind, since, judged,
                                  deadline, registered_at)
      values (id, run_, w->>'branch', (w->>'ordinal')::int, 'child', 0, false, null, business)
      on conflict do nothing;
      select json_build_object('state', x.state, 'value', x.value, 'reason', x.reason,
                               'error', x.error) into output_
      from workflow_instances x
      where x.id = (w->>'child')::uuid and x.finished_at is not null;
    elsif w->>'kind' = 'event' then
      since_at := (w->>'since')::timestamptz;
      base := case when since_at is null then q.since else 0 end;
      insert into workflow_waits (instance_id, run, branch, ordinal, kind, since, judged,
                                  deadline, registered_at)
      values (id, run_, w->>'branch', (w->>'ordinal')::int, 'event', base,
              (w->>'judged')::boolean, deadline, business)
      on conflict do nothing;
      insert into workflow_subscriptions (instance_id, kind, branch, ordinal, type, key, since,
                                          judged)
      select id, 'wait', w->>'branch', (w->>'ordinal')::int, t.value->>'type',
             key_today(k.value), base, (w->>'judged')::boolean
      from json_array_elements(w->'types') t, json_array_elements_text(t.value->'keys') k
      on conflict do nothing;

      for c in
        select distinct x.settled, x.event_id, e.payload
        from json_array_elements(w->'types') t
        cross join lateral json_array_elements_text(t.value->'keys') k
        join event_keys x on x.key = key_today(k.value) and x.type = t.value->>'type'
          and x.settled > greatest(base, coalesce((w->>'after')::bigint, 0))
        cross join lateral (select y.payload::text as payload, y.at from events y
                            where y.id = x.event_id offset 0) e
        where x.event_id is distinct from q.trigger
          and (since_at is null or e.at >= since_at)
          and (deadline is null or e.at <= deadline)
          and (w->>'chosen' is null or x.event_id = (w->>'chosen')::uuid)
          and not exists (select from workflow_inbox b
                          where b.instance_id = id and b.event_id = x.event_id
                            and b.kind = 'wait' and b.verdict = 'consumed')
        order by x.settled, x.event_id limit 20
      loop
        found_ := true;
        event_id := c.event_id; settled := c.settled; payload := c.payload::json;
        if (w->>'judged')::boolean and w->>'chosen' is null then
          result := 'judge';
          return next;
          continue;
        end if;
        insert into workflow_inbox (instance_id, event_id, kind, settled, verdict)
        values (id, c.event_id, 'wait', c.settled, 'consumed')
        on conflict on constraint workflow_inbox_pkey do update set verdict = 'consumed';
        output_ := json_build_object('event', c.payload::json);
        exit;
      end loop;
      if found_ and output_ is null then
        continue;
      end if;
    else
      insert into workflow_waits (instance_id, run, branch, ordinal, kind, since, judged,
                                  deadline, registered_at)
      values (id, run_, w->>'branch', (w->>'ordinal')::int, 'sleep', 0, false, deadline, business)
      on conflict do nothing;
    end if;

    if output_ is null and deadline <= business then
      if w->>'kind' = 'event' and detection_behind(deadline) then
        result := 'behind';
        if (w->>'release')::boolean then
          update workflow_queue x
          set worker = null, due = wall + interval '1 s',
              state = case x.state when 'stopping' then x.state else 'waiting' end
          where x.instance_id = id and x.worker = me;
        end if;
        return next;
        continue;
      end if;
      output_ := json_build_object('until', utc(deadline));
    end if;

    if output_ is not null then
      insert into workflow_step_executions (workflow_instance_id, run, seq, branch, ordinal,
          state, name, args_hash, input, output, at, started_at, finished_at)
      select id, run_, (w->>'seq')::int, w->>'branch', (w->>'ordinal')::int, 'done', w->>'name',
             w->>'hash', w->'input', output_, business, real_of(v.registered_at), wall
      from workflow_waits v
      where v.instance_id = id and v.run = run_ and v.branch = w->>'branch'
        and v.ordinal = (w->>'ordinal')::int;
      delete from workflow_waits v
      where v.instance_id = id and v.run = run_ and v.branch = w->>'branch'
        and v.ordinal = (w->>'ordinal')::int;
      delete from workflow_subscriptions s
      where s.instance_id = id and s.kind = 'wait' and s.branch = w->>'branch'
        and s.ordinal = (w->>'ordinal')::int;
      result := 'done'; at := utc(business); payload := output_;
      return next;
      continue;
    end if;

    result := 'waits';
    if (w->>'release')::boolean then
      update workflow_queue x
      set worker = null,
          state = case when x.state = 'stopping' then x.state
                       when w->>'kind' = 'sleep' then 'sleeping' else 'waiting' end,
          reason = case x.state when 'stopping' then x.reason end,
          due = case when x.watched and stop_pending(id) then wall
                     else real_of(deadline) + interval '1 ms' end
      where x.instance_id = id and x.worker = me;
    end if;
    return next;
  end loop;
end $$;

-- Giving up and ending ---------------------------------------------------------------------------

-- Gives instances back. Each element: {instance, state, due, reason}; due is real time or null, and
-- null for 'stuck', or the business time `deadline`; or {instance, keep: true}: stuck or paused as it was;
-- with `continue`, an event, its next run begins. One that is stopping stays
-- so; when stuck, its reason keeps what it was stopping for. 'stop_error' says that the `when` of a
-- stop can't be asked: asking again at once would be no use. The reason of a stuck one gets its `since`. The row is locked before what may
-- have arrived for it is looked at, so nothing that arrives meanwhile is lost (with the gate locked
-- before, if it is watched, no event either). Returns those that this worker didn't hold.
create function release(me uuid, list json) returns setof uuid language plpgsql volatile as $$
declare
  w json;
  id uuid;
  next_due timestamptz;
  next_state text;
  why json;
  old record;
begin
  for w in select e.value from json_array_elements(list) e order by e.value->>'instance' loop
    id := (w->>'instance')::uuid;
    select q.state, q.reason into old
    from workflow_queue q where q.instance_id = id and q.worker = me for no key update;
    if not found then
      return next id;
      continue;
    end if;
    next_due := coalesce((w->>'due')::timestamptz, real_of((w->>'deadline')::timestamptz));
    next_state := w->>'state';
    why := w->'reason';
    if json_typeof(why) = 'null' then
      why := null;
    end if;
    if (w->>'keep')::boolean then
      next_state := old.state;
      why := old.reason;
    elsif old.state = 'stopping' and next_state = 'stuck' then
      why := (why::jsonb || jsonb_build_object('stopping', old.reason))::json;
    elsif old.state = 'stopping' then
      next_state := old.state;
      why := old.reason;
    end if;
    if next_state = 'stuck' and why->>'since' is null then
      why := (why::jsonb || jsonb_build_object('since', utc(business_now())))::json;
    end if;
    if next_state = 'paused' then
      delete from workflow_inbox b where b.instance_id = id and b.kind = 'paused';
    end if;
    delete from workflow_inbox b where b.instance_id = id and b.kind = 'resume';
    if found then
      next_state := case old.state when 'stopping' then old.state else 'pending' end;
      next_due := clock_timestamp();
      why := case old.state when 'stopping' then old.reason end;
    elsif why->>'code' is distinct from 'stop_error' and stop_pending(id) then
      next_due := clock_timestamp();
    end if;
    update workflow_inbox b set verdict = 'seen'
    where b.instance_id = id and b.kind = 'wait' and b.verdict is null;
    if found and next_state = 'waiting' then
      next_due := clock_timestamp();
    end if;
    if w->'continue' is not null and old.state <> 'stopping' then
      perform continue_instance(id, w->'continue');
    end if;
    update workflow_queue q
    set worker = null, due = next_due, state = next_state, reason = why
    where q.instance_id = id;
  end loop;
end $$;

-- The decision to stop is durable before anything is undone: {instance, reason: {code, by, name}}.
create function stopping(me uuid, list json) returns setof uuid language plpgsql volatile as $$
begin
  update workflow_queue q
  set state = 'stopping',
      reason = (select e.value->'reason' from json_array_elements(list) e
                where e.value->>'instance' = q.instance_id::text)
  where q.worker = me and q.instance_id = any(array(
    select (e.value->>'instance')::uuid from json_array_elements(list) e order by 1));
  perform stop_children(array(
    select q.instance_id from json_array_elements(list) e
    join workflow_queue q on q.instance_id = (e.value->>'instance')::uuid and q.worker = me));
  return query
    select (e.value->>'instance')::uuid from json_array_elements(list) e
    where not exists (select from workflow_queue q
                      where q.instance_id = (e.value->>'instance')::uuid and q.worker = me);
end $$;

-- Called with the instances that have just ended, in the same transaction: whoever starts instances
-- behind a taken key replaces it.
create function instances_ended(ended uuid[]) returns void language sql volatile as $$
  select
$$;

-- Ends instances. results holds {state, outcome, reason, error} by instance where it isn't plainly
-- done. What they held is free: their keys, subscriptions, waits.
create function finish(me uuid, ids uuid[], results jsonb) returns void
language plpgsql volatile as $$
declare
  ended uuid[];
  watching uuid[];
  parents uuid[];
  business timestamptz := business_now();
begin
  with d as (delete from workflow_queue q where q.instance_id = any(ids) and q.worker = me
             returning q.instance_id, q.watched, q.epoch, q.parent_id)
  select array_agg(d.instance_id order by d.instance_id),
         coalesce(array_agg(d.instance_id) filter (where d.watched or d.epoch > 1), '{}'),
         array_agg(distinct d.parent_id) filter (where d.parent_id is not null)
  into ended, watching, parents from d;
  if ended is null then
    return;
  end if;
  update workflow_instances i
  set state = coalesce(results->i.id::text->>'state', 'done'), finished_at = business,
      outcome = results->i.id::text->>'outcome', reason = results->i.id::text->>'reason',
      error = results->i.id::text->>'error',
      value = case when i.parent_id is not null then (results->i.id::text->'value')::json end
  where i.id = any(ended);
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
  perform instances_ended(ended);
  if results is not null then
    perform stop_children(array(select r.key::uuid from jsonb_each(results) r
                                where r.key::uuid = any(ended)
                                  and r.value->>'state' in ('stopped', 'cancelled')));
  end if;
  if parents is not null then
    perform children_ended(parents);
  end if;
end $$;

-- What people and other stages ask ---------------------------------------------------------------

-- Asks an instance to stop as 'cancelled', 'replaced', 'deleted': its on_stop runs, then it is
-- 'stopped' (or 'cancelled'). by is the event that caused it, if there is one. False: it has ended.
create function stop_instance(instance uuid, how text, by uuid default null) returns boolean
language plpgsql volatile as $$
declare
  q record;
begin
  select x.worker, x.state into q from workflow_queue x
  where x.instance_id = instance for no key update;
  if not found then
    return false;
  end if;
  if q.worker is null and q.state <> 'stopping' then
    update workflow_queue x
    set state = 'stopping', due = clock_timestamp(),
        reason = json_build_object('code', 'stopping', 'name', how, 'by', by)
    where x.instance_id = instance;
  elsif q.worker is not null then
    insert into workflow_inbox (instance_id, event_id, kind, settled)
    values (instance, coalesce(by, '00000000-0000-0000-0000-000000000000'), how, 0)
    on conflict do nothing;
    update workflow_queue x set watched = true where x.instance_id = instance and not x.watched;
  end if;
  return true;
end $$;

create function cancel_instance(instance uuid) returns boolean language sql volatile as $$
  select stop_instance(instance, 'cancelled')
$$;

-- Holds an instance where it is; its clocks go on. False: it has ended, or is stopping.
create function pause_instance(instance uuid) returns boolean language plpgsql volatile as $$
declare
  q record;
begin
  select x.worker, x.state into q from workflow_queue x
  where x.instance_id = instance for no key update;
  if not found or q.state = 'stopping' then
    return false;
  end if;
  if q.worker is null then
    update workflow_queue x
    set state = 'paused', due = null,
        reason = json_build_object('code', 'paused', 'message', 'paused by a person', 'since',
          utc(business_now()), 'can', json_build_array('resume', 'cancel'))
    where x.instance_id = instance;
  else
    insert into workflow_inbox (instance_id, event_id, kind, settled)
    values (instance, '00000000-0000-0000-0000-000000000000', 'paused', 0) on conflict do nothing;
    update workflow_queue x set watched = true where x.instance_id = instance and not x.watched;
  end if;
  return true;
end $$;

-- Lets a stuck, paused or postponed instance go on at once, from where it is.
create function resume_instance(instance uuid) returns boolean language plpgsql volatile as $$
declare
  q record;
begin
  select x.worker, x.state into q from workflow_queue x
  where x.instance_id = instance for no key update;
  if not found then
    return false;
  end if;
  delete from workflow_inbox b where b.instance_id = instance and b.kind = 'paused';
  if q.worker is null and q.state <> 'stopping' then
    update workflow_queue x
    set state = case when x.reason->'stopping' is null then 'pending' else 'stopping' end,
        reason = x.reason->'stopping',
        due = case when x.queued_key is null then clock_timestamp() end -- else it isn't its turn
    where x.instance_id = instance;
  elsif q.worker is null then
    update workflow_queue x set due = clock_timestamp() where x.instance_id = instance;
  else
    -- Its worker may be about to give it up for the very reason that is gone now.
    insert into workflow_inbox (instance_id, event_id, kind, settled)
    values (instance, '00000000-0000-0000-0000-000000000000', 'resume', 0) on conflict do nothing;
  end if;
  return true;
end $$;

-- Tries the failed step of a stuck instance again: its record, and what on_error did, is dropped.
create function retry_instance(instance uuid) returns boolean language plpgsql volatile as $$
declare
  q record;
begin
  select x.worker, x.state, x.run, x.reason into q from workflow_queue x
  where x.instance_id = instance for no key update;
  if not found or q.worker is not null or q.state <> 'stuck' then
    return false;
  end if;
  if q.reason->>'code' = 'action_failed' then
    delete from workflow_step_executions s
    where s.workflow_instance_id = instance and s.run = q.run
      and ((s.branch = q.reason->>'branch' and s.ordinal = (q.reason->>'ordinal')::int
            and s.state = 'failed') or s.branch = 'on_error');
  end if;
  return resume_instance(instance);
end $$;
