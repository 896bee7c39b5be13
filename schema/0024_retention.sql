-- database: engine
-- Retention: what time takes away. Payloads (what steps, events, sends and calls carried) go some days
-- after their instance has ended, rows and keys of the ledger and of events much later. Nothing that an
-- unfinished instance can read is removed: neither its own record, nor that of its children, nor an
-- event that its waits could still find.
--
-- Each call is one batch and one transaction, children first and the instance last, so that a process
-- that dies leaves nothing half. A cursor walks through the instances by their start and through the
-- events by their number; at the end it begins anew. Days count in business time; 0 keeps for ever.

-- Rows are written in this order, so a range of it is a range of the table; and it costs next to nothing.
create index event_keys_settled on event_keys using brin (settled) with (pages_per_range = 16);

create table retention_cursors (
  what text primary key,
  at timestamptz not null default '-infinity', -- of instances
  id uuid not null default '00000000-0000-0000-0000-000000000000',
  settled bigint not null default -1           -- of events
);
insert into retention_cursors (what) values ('instances'), ('events'), ('records');

create function retention_before(days int) returns timestamptz language sql volatile as $$
  select case when days > 0 then business_now() - days * interval '1 day' else '-infinity' end
$$;

-- Takes the turn at one of them; two monitors don't do the same twice.
create function retention_turn(what text) returns retention_cursors language sql volatile as $$
  select c from retention_cursors c where c.what = retention_turn.what for update skip locked
$$;

-- Instances --------------------------------------------------------------------------------------

-- Ended instances among these whose end is that old, that no live parent can ask about, and that
-- don't hold a send nobody has decided on.
create function retention_over(ids uuid[], before timestamptz) returns uuid[]
language sql volatile as $$
  select coalesce(array_agg(i.id order by i.id), '{}')
  from workflow_instances i
  where i.id = any(ids) and i.finished_at < before
    and not exists (select from workflow_queue q where q.instance_id in (i.id, i.parent_id))
    and not exists (select from messaging_log m where m.instance_id = i.id
                      and m.state in ('intent', 'in_doubt', 'held'))
    and not exists (select from outbound_log o where o.instance_id = i.id
                      and o.state in ('intent', 'in_doubt', 'held'))
$$;

-- What these carried. Their rows stay, with states, times, addresses and keys.
create function prune_payloads(ids uuid[]) returns void language plpgsql volatile as $$
begin
  delete from workflow_step_executions s where s.workflow_instance_id = any(ids);
  delete from workflow_notes n where n.instance_id = any(ids);
  delete from workflow_inbox b where b.instance_id = any(ids);
  delete from workflow_waits w where w.instance_id = any(ids);
  delete from workflow_subscriptions s where s.instance_id = any(ids);
  delete from workflow_batches b where b.instance_id = any(ids);
  delete from audience_members m
  where m.audience_id = any(array(select a.id from audiences a where a.instance_id = any(ids)));
  delete from audiences a where a.instance_id = any(ids);
  update staff_tasks t set note = null, answer_text = null, answer_note = null
  where t.instance_id = any(ids) and (t.done_at is not null or t.cancelled_at is not null);
  delete from message_slots s
  where s.message_id = any(array(select m.id from messaging_log m where m.instance_id = any(ids)));
  update messaging_log m set subject = null, body = null
  where m.instance_id = any(ids) and (m.subject is not null or m.body is not null);
  update outbound_log o set request = null, response = null
  where o.instance_id = any(ids) and (o.request is not null or o.response is not null);
  update workflow_instances i set value = null, pruned_at = business_now() where i.id = any(ids);
end $$;

-- The rest of them: the ledger and at last the instance. What was to be sent once stays said.
create function prune_instances(ids uuid[]) returns void language plpgsql volatile as $$
begin
  perform prune_payloads(ids);
  delete from messaging_log m where m.instance_id = any(ids);
  delete from outbound_log o where o.instance_id = any(ids);
  delete from staff_tasks t
  where t.instance_id = any(ids) and (t.done_at is not null or t.cancelled_at is not null);
  delete from workflow_variants v where v.instance_id = any(ids);
  delete from workflow_deaths d where d.instance_id = any(ids);
  delete from workflow_instances i where i.id = any(ids);
end $$;

-- One batch of instances. Returns {looked, payloads, rows, more}.
create function retain_instances(payload_days int, ledger_days int, n int) returns json
language plpgsql volatile as $$
declare
  c retention_cursors := retention_turn('instances');
  payloads timestamptz := retention_before(payload_days);
  rows_ timestamptz := retention_before(ledger_days);
  ids uuid[];
  over uuid[];
  stripped uuid[];
  last_ record;
begin
  if c.what is null then
    return json_build_object('looked', 0, 'payloads', 0, 'rows', 0, 'more', false);
  end if;
  ids := array(
    select i.id from workflow_instances i
    where i.created_at >= c.at and (i.created_at, i.id) > (c.at, c.id)
      and i.created_at < greatest(payloads, rows_)
    order by i.created_at, i.id limit n);
  select i.created_at, i.id into last_ from workflow_instances i where i.id = ids[cardinality(ids)];
  -- Of instances whose rows go no row may stay that a child's is found by.
  over := retention_over(ids, rows_);
  over := array(select o from unnest(over) o
                where not exists (select from workflow_queue q where q.parent_id = o));
  stripped := array(
    select i.id from workflow_instances i
    where i.id = any(retention_over(ids, payloads)) and i.pruned_at is null and i.id <> all(over));
  perform prune_instances(over);
  perform prune_payloads(stripped);
  if cardinality(ids) < n then
    update retention_cursors r set at = default, id = default where r.what = 'instances';
  else
    update retention_cursors r set at = last_.created_at, id = last_.id where r.what = 'instances';
  end if;
  return json_build_object('looked', cardinality(ids), 'payloads', cardinality(stripped),
                           'rows', cardinality(over), 'more', cardinality(ids) = n);
end $$;

-- Events -----------------------------------------------------------------------------------------

-- Whether an unfinished instance can still read it: what it began with; what it gathered; by a wait for
-- the same customer or about the same thing; what Lua raised on and is to look at again.
create function event_is_wanted(e events) returns boolean language sql volatile as $$
  select exists (select from workflow_instances i where i.event_id = e.id and i.pruned_at is null)
    or exists (select from workflow_batches b where b.event_id = e.id)
    or e.entity = 'instance' and exists (select from workflow_instances i
         where i.id = uuid_or_null(e.entity_id) and i.pruned_at is null)
    or exists (select from workflow_instances i join workflow_queue q on q.instance_id = i.id
               where i.customer_id = e.customer_id and q.since < e.settled)
    or exists (select from workflow_subscriptions s
               where s.type = e.type and s.since < e.settled
                 and s.key = any(array[e.entity || ':' || e.entity_id, 'customer:' || e.customer_id,
                   'phone:' || phone_e164(e.payload->'customer'->>'phone'),
                   'email:' || email_normal(e.payload->'customer'->>'email')]))
    or exists (select from detect_errors d where d.event_id = e.id and d.resolved_at is null)
$$;

-- One batch of events. Returns {looked, payloads, rows, more}.
create function retain_events(payload_days int, ledger_days int, n int) returns json
language plpgsql volatile as $$
declare
  c retention_cursors := retention_turn('events');
  payloads timestamptz := retention_before(payload_days);
  rows_ timestamptz := retention_before(ledger_days);
  looked int;
  upto bigint;
  free uuid[];
  gone uuid[];
  stripped bigint;
begin
  if c.what is null then
    return json_build_object('looked', 0, 'payloads', 0, 'rows', 0, 'more', false);
  end if;
  with old as materialized (
    select e.id, e.settled, event_is_wanted(e) as wanted
    from events e
    where e.id = any(array(select x.id from events x where x.settled > c.settled
                           order by x.settled limit n))
      and e.noticed_at < greatest(payloads, rows_)
  )
  select count(*), max(o.settled), coalesce(array_agg(o.id) filter (where not o.wanted), '{}')
  into looked, upto, free from old o;
  gone := array(
    select e.id from events e
    where e.id = any(free) and e.noticed_at < rows_
      and not exists (select from workflow_instances i where i.event_id = e.id));
  delete from event_keys k
  where k.event_id = any(gone)
    and k.settled between c.settled and (select coalesce(max(e.settled), -1) from events e
                                         where e.id = any(gone));
  delete from events e where e.id = any(gone);
  update events e set payload = '{}'
  where e.id = any(free) and e.noticed_at < payloads and e.payload::text <> '{}';
  get diagnostics stripped = row_count;
  update retention_cursors r set settled = case when looked = n then upto else -1 end
  where r.what = 'events';
  return json_build_object('looked', looked, 'payloads', stripped, 'rows', cardinality(gone),
                           'more', looked = n);
end $$;

-- Records ----------------------------------------------------------------------------------------

-- What else is written and never asked for again. Returns {looked, payloads, rows, more}.
create function retain_records(payload_days int, ledger_days int, n int) returns json
language plpgsql volatile as $$
declare
  c retention_cursors := retention_turn('records');
  payloads timestamptz := retention_before(payload_days);
  rows_ timestamptz := retention_before(ledger_days);
  removed bigint := 0;
  stripped bigint;
  k bigint;
begin
  if c.what is null then
    return json_build_object('looked', 0, 'payloads', 0, 'rows', 0, 'more', false);
  end if;
  delete from workflow_skips s
  where s.id = any(array(select x.id from workflow_skips x where x.at < rows_ order by x.id limit n));
  get diagnostics k = row_count;
  removed := removed + k;
  delete from detect_errors d
  where d.id = any(array(select x.id from detect_errors x
                         where business_of(x.resolved_at) < payloads order by x.id limit n));
  get diagnostics k = row_count;
  removed := removed + k;
  delete from system_alerts a
  where a.id = any(array(select x.id from system_alerts x
                         where business_of(x.resolved_at) < payloads order by x.id limit n));
  get diagnostics k = row_count;
  removed := removed + k;
  delete from workflow_rate_starts r
  where (r.workflow, r.mode, r.key, r.at, r.instance_id) in (
    select x.workflow, x.mode, x.key, x.at, x.instance_id from workflow_rate_starts x
    where x.until < business_now() - interval '2 days' limit n);
  get diagnostics k = row_count;
  removed := removed + k;
  delete from inbound_messages m
  where m.id = any(array(select x.id from inbound_messages x where x.at < rows_ limit n));
  get diagnostics k = row_count;
  removed := removed + k;
  update inbound_messages m set body = null
  where m.id = any(array(select x.id from inbound_messages x
                         where x.at < payloads and x.body is not null limit n));
  get diagnostics stripped = row_count;
  return json_build_object('looked', removed + stripped, 'payloads', stripped, 'rows', removed,
                           'more', removed >= n or stripped >= n);
end $$;

-- One batch of what is named.
create function retain(what text, payload_days int, ledger_days int, n int) returns json
language sql volatile as $$
  select case what
    when 'instances' then retain_instances(payload_days, ledger_days, n)
    when 'events' then retain_events(payload_days, ledger_days, n)
    when 'records' then retain_records(payload_days, ledger_days, n) end
$$;
