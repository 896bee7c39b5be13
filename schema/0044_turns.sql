-- database: engine
-- A start that had to wait begins when its turn comes: its clock starts then. By the time of its event
-- its first sleep was over already, and its first send more than a day late and held.

-- Whether an instance could begin only some time after it was made; if so it is as if made then. What
-- nobody came to in time wasn't delayed: it is late.
create function was_delayed(instance uuid, turn timestamptz) returns boolean language plpgsql volatile as $$
begin
  update workflow_instances i set created_at = business_of(turn)
  where i.id = instance and turn > real_of(i.created_at) + interval '1 second'
    and business_of(turn) > i.created_at;
  return found;
end $$;

-- Asked before the body of these instances goes on; a unit with other rows has the gate already.
-- Returns those that this worker doesn't hold: also those that may not go on, which are given back
-- here. What was to stop them is looked at as in release().
-- Given back once are what was delayed, with its turn as it was, to be claimed with its new time, and
-- what has one event more.
create or replace function flow_begin(me uuid, ids uuid[]) returns setof uuid language plpgsql volatile as $$
declare
  q record;
  f workflow_flow;
  o record;
  delayed boolean;
begin
  perform lock_gate();
  perform 1 from workflow_queue x where x.instance_id = any(ids) and x.worker = me
  order by x.instance_id for no key update;
  for q in select x.instance_id, x.watched, x.due from workflow_queue x
           where x.instance_id = any(ids) and x.worker = me
           order by x.priority, x.since, x.instance_id
  loop
    select * into f from workflow_flow x where x.instance_id = q.instance_id;
    continue when not found;
    select * into o from flow_obstacle(f);
    delayed := false;
    if o.why is null and not f.begun then
      delayed := was_delayed(q.instance_id, q.due);
    end if;
    if o.why is not null or f.anew or delayed then
      update workflow_flow x set anew = null where x.instance_id = q.instance_id and x.anew;
      delete from workflow_inbox b where b.instance_id = q.instance_id and b.kind = 'resume';
      update workflow_queue x
      set worker = null, state = 'pending', reason = o.why,
          due = case when o.why is null then x.due
                     when x.watched and stop_pending(x.instance_id) then clock_timestamp()
                     else real_of(o.until) + interval '1 ms' end
      where x.instance_id = q.instance_id;
      continue;
    end if;
    if not f.begun and f.rate_key is not null then
      perform rate_put(f, business_now(), true);
    end if;
    if not f.begun then
      if f.slot_key is null and f.family is null then
        delete from workflow_flow x where x.instance_id = q.instance_id;
      else
        update workflow_flow x set begun = true, gather = null, behind = null
        where x.instance_id = q.instance_id;
      end if;
      update workflow_queue x
      set reason = null, flow = case when f.slot_key is not null then 2
                                     when f.family is not null then 1 else 0 end
      where x.instance_id = q.instance_id;
    end if;
  end loop;
  return query select w.id from unnest(ids) w(id)
               where not exists (select from workflow_queue x
                                 where x.instance_id = w.id and x.worker = me);
end $$;

-- As before; who queued behind a key begins now.
create or replace function instances_ended(ended uuid[], keys text[]) returns void
language plpgsql volatile set enable_seqscan = off as $$
declare
  released record;
begin
  if not exists (select from workflow_queue w where w.queued_key = any(keys)) then
    return;
  end if;
  for released in update workflow_queue q
  set business_key = q.queued_key, queued_key = null,
      due = case when q.worker is null then clock_timestamp() end
  where q.instance_id = any(array(
    select (select w.instance_id from workflow_queue w
            where w.queued_key = k.key order by w.since, w.instance_id limit 1)
    from (select distinct x.key from unnest(keys) x(key)) k
    where not exists (select from workflow_queue h where h.business_key = k.key)))
  returning q.instance_id, q.due
  loop
    perform was_delayed(released.instance_id, released.due);
  end loop;
end $$;
