-- database: servicetitan
-- Changes: what happened to the rows of the watched tables, noticed by triggers in the writer's own
-- transaction, whoever the writer is. Detection reads them with read_changes, in the order of seq,
-- and deletes what it has settled; the sequence number is an order, never a cursor.

create table changes (
  seq bigint generated always as identity primary key,
  entity text not null,                  -- customer, job, estimate, ...
  entity_id text not null,
  old json,                              -- the row before; null: it is new
  new json,                              -- the row after; null: it was deleted
  modified_on timestamptz,               -- the vendor's time of it; null: the writer named none
  noticed_at timestamptz not null default clock_timestamp(),
  retry_at timestamptz                   -- it waits for its parents until then
) with (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 10000);
create index changes_waiting on changes (entity, entity_id, seq) where retry_at is not null;

-- A statement changed rows of a watched table; the trigger's argument is the entity. A row of which
-- only the bookkeeping differs isn't a change. One notification per statement, and only if there
-- is something to see.
create function capture_inserted() returns trigger language plpgsql as $$
begin
  insert into changes (entity, entity_id, new, modified_on)
  select tg_argv[0], n.id::text, to_json(n), n.modified_on from inserted n order by n.id;
  if found then
    perform pg_notify('changes', '');
  end if;
  return null;
end $$;

-- A writer that leaves modified_on as it was isn't the vendor: its change has no vendor's time.
create function capture_updated() returns trigger language plpgsql as $$
begin
  insert into changes (entity, entity_id, old, new, modified_on)
  select tg_argv[0], coalesce(n.id, o.id)::text,
         case when o.id is not null then to_json(o) end,
         case when n.id is not null then to_json(n) end,
         case when n.modified_on is distinct from o.modified_on then n.modified_on end
  from before o full join after n on n.id = o.id
  where to_jsonb(o) - 'synced_at' - 'modified_on' is distinct from
        to_jsonb(n) - 'synced_at' - 'modified_on'
  order by coalesce(n.id, o.id);
  if found then
    perform pg_notify('changes', '');
  end if;
  return null;
end $$;

create function capture_deleted() returns trigger language plpgsql as $$
begin
  insert into changes (entity, entity_id, old)
  select tg_argv[0], o.id::text, to_json(o) from deleted o order by o.id;
  if found then
    perform pg_notify('changes', '');
  end if;
  return null;
end $$;

-- A contact that changes is a change of its customer, whose own row stays as it is.
create function contacts_touched(customers bigint[], at timestamptz) returns void
language plpgsql as $$
begin
  insert into changes (entity, entity_id, old, new, modified_on)
  select 'customer', c.id::text, to_json(c), to_json(c), nullif(at, 'infinity')
  from st_customers c where c.id = any(customers) order by c.id;
  if found then
    perform pg_notify('changes', '');
  end if;
end $$;

create function capture_contacts_inserted() returns trigger language plpgsql as $$
begin
  perform contacts_touched(array_agg(distinct n.customer_id), max(n.modified_on))
  from inserted n having count(*) > 0;
  return null;
end $$;

create function capture_contacts_updated() returns trigger language plpgsql as $$
begin
  perform contacts_touched(array_agg(distinct x.customer_id), max(x.modified_on))
  from (select unnest(array[o.customer_id, n.customer_id]) as customer_id,
               case when n.modified_on is distinct from o.modified_on then n.modified_on
                    else 'infinity' end as modified_on
        from before o full join after n on n.id = o.id
        where to_jsonb(o) - 'synced_at' - 'modified_on' is distinct from
              to_jsonb(n) - 'synced_at' - 'modified_on') x
  where x.customer_id is not null having count(*) > 0;
  return null;
end $$;

create function capture_contacts_deleted() returns trigger language plpgsql as $$
begin
  perform contacts_touched(array_agg(distinct o.customer_id), null)
  from deleted o having count(*) > 0;
  return null;
end $$;

-- A merge is remembered with the end of its chain, whichever of the two rows came first.
create function capture_merges() returns trigger language plpgsql as $$
declare
  merge record;
  target bigint;
begin
  for merge in select n.id, n.merged_to_id from after n
               where n.merged_to_id is not null and n.merged_to_id <> n.id order by n.id
  loop
    target := customer_resolved(merge.merged_to_id);
    if target <> merge.id then
      insert into customer_alias as a (old_id, new_id) values (merge.id, target)
      on conflict (old_id) do update set new_id = excluded.new_id where a.new_id <> excluded.new_id;
      update customer_alias set new_id = target where new_id = merge.id;
    end if;
  end loop;
  return null;
end $$;

do $$
declare
  watched record;
begin
  for watched in select * from (values
    ('st_customers', 'customer'), ('st_locations', 'location'), ('st_jobs', 'job'),
    ('st_estimates', 'estimate'), ('st_invoices', 'invoice'),
    ('st_appointments', 'appointment'), ('st_technicians', 'technician')) as w (name, entity)
  loop
    execute format('create trigger capture_inserted after insert on %I referencing new table as
      inserted for each statement execute function capture_inserted(%L)',
      watched.name, watched.entity);
    execute format('create trigger capture_updated after update on %I referencing old table as
      before new table as after for each statement execute function capture_updated(%L)',
      watched.name, watched.entity);
    execute format('create trigger capture_deleted after delete on %I referencing old table as
      deleted for each statement execute function capture_deleted(%L)',
      watched.name, watched.entity);
  end loop;
end $$;

create trigger capture_inserted after insert on st_contacts referencing new table as inserted
  for each statement execute function capture_contacts_inserted();
create trigger capture_updated after update on st_contacts
  referencing old table as before new table as after
  for each statement execute function capture_contacts_updated();
create trigger capture_deleted after delete on st_contacts referencing old table as deleted
  for each statement execute function capture_contacts_deleted();
create trigger capture_merges_inserted after insert on st_customers referencing new table as after
  for each statement execute function capture_merges();
create trigger capture_merges_updated after update on st_customers referencing new table as after
  for each statement execute function capture_merges();

-- ----------------------------------------------------------------- rows as authors see them
-- One function per entity: snake_case, money as numbers, times as UTC text; nulls are stripped where the
-- record leaves (an absent key), once for all.
-- The views of 0008 have the same columns under the same names.

-- "2026-03-07T22:00:00Z". Stable, as to_char is: calls are then put in line, which is far faster.
create function utc_text(at timestamptz) returns text language sql stable as $$
  select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
$$;

create function dollars(amount numeric) returns numeric language sql immutable as $$
  select trim_scale(round(amount, 2))
$$;

create function address_line(street text, unit text) returns text language sql stable as $$
  select nullif(concat_ws(' ', nullif(btrim(street), ''), nullif(btrim(unit), '')), '')
$$;

-- more: what isn't in the customer's own row: phone, email, tags, last_job_on.
create function customer_json(c st_customers, more json) returns json language sql stable as $$
  select json_build_object(
    'id', c.id, 'name', c.name, 'first_name', c.first_name, 'last_name', c.last_name, 'type', c.type,
    'phone', more -> 'phone', 'email', more -> 'email', 'address', address_line(c.street, c.unit),
    'city', c.city, 'state', c.state, 'zip', c.zip, 'zone', c.zone,
    'balance', dollars(c.balance), 'tags', coalesce(more -> 'tags', '{}'), 'active', c.active,
    'do_not_service', c.do_not_service, 'do_not_mail', c.do_not_mail,
    'last_job_on', more -> 'last_job_on', 'merged_to_id', c.merged_to_id,
    'created_on', utc_text(c.created_on), 'modified_on', utc_text(c.modified_on))
$$;

create function location_json(l st_locations) returns json language sql stable as $$
  select json_build_object(
    'id', l.id, 'customer_id', l.customer_id, 'name', l.name,
    'address', address_line(l.street, l.unit), 'city', l.city, 'state', l.state, 'zip', l.zip,
    'zone', l.zone, 'zone_id', l.zone_id, 'active', l.active,
    'created_on', utc_text(l.created_on), 'modified_on', utc_text(l.modified_on))
$$;

create function job_json(j st_jobs, technicians json) returns json language sql stable as $$
  select json_build_object(
    'id', j.id, 'number', j.number, 'status', j.status, 'priority', j.priority,
    'completed_on', utc_text(j.completed_on), 'total', dollars(j.total),
    'no_charge', coalesce(j.no_charge, false), 'recall_for_id', j.recall_for_id,
    'cancel_reason', j.cancel_reason, 'summary', j.summary,
    'technicians', coalesce(technicians, '[]'), 'customer_id', j.customer_id,
    'location_id', j.location_id, 'business_unit_id', j.business_unit_id,
    'job_type_id', j.job_type_id, 'campaign_id', j.campaign_id, 'invoice_id', j.invoice_id,
    'created_from_estimate_id', j.created_from_estimate_id, 'active', j.active,
    'created_on', utc_text(j.created_on), 'modified_on', utc_text(j.modified_on))
$$;

create function estimate_json(e st_estimates) returns json language sql stable as $$
  select json_build_object(
    'id', e.id, 'name', e.name, 'status', e.status, 'subtotal', dollars(e.subtotal),
    'tax', dollars(e.tax), 'total', dollars(coalesce(e.subtotal, 0) + coalesce(e.tax, 0)),
    'items', coalesce(e.items, '[]'), 'summary', e.summary, 'sold_on', utc_text(e.sold_on),
    'sold_by', e.sold_by, 'is_change_order', coalesce(e.is_change_order, false),
    'job_id', e.job_id, 'job_number', e.job_number, 'customer_id', e.customer_id,
    'location_id', e.location_id, 'business_unit_id', e.business_unit_id, 'active', e.active,
    'created_on', utc_text(e.created_on), 'modified_on', utc_text(e.modified_on))
$$;

create function invoice_json(i st_invoices) returns json language sql stable as $$
  select json_build_object(
    'id', i.id, 'number', i.number, 'subtotal', dollars(i.subtotal), 'tax', dollars(i.tax),
    'total', dollars(i.total), 'balance', dollars(i.balance), 'invoice_date', i.invoice_date,
    'due_date', i.due_date, 'paid_on', utc_text(i.paid_on), 'items', coalesce(i.items, '[]'),
    'summary', i.summary, 'type', i.type, 'adjustment_to_id', i.adjustment_to_id,
    'job_id', i.job_id, 'customer_id', i.customer_id, 'location_id', i.location_id,
    'business_unit_id', i.business_unit_id, 'active', i.active,
    'created_on', utc_text(i.created_on), 'modified_on', utc_text(i.modified_on))
$$;

create function appointment_json(a st_appointments, technicians json) returns json
language sql stable as $$
  select json_build_object(
    'id', a.id, 'number', a.number, 'status', a.status, 'start', utc_text(a.start),
    'end_at', utc_text(a.end_at), 'arrival_window_start', utc_text(a.arrival_window_start),
    'arrival_window_end', utc_text(a.arrival_window_end),
    'is_confirmed', coalesce(a.is_confirmed, false),
    'special_instructions', a.special_instructions, 'technicians', coalesce(technicians, '[]'),
    'job_id', a.job_id, 'customer_id', a.customer_id, 'active', a.active,
    'created_on', utc_text(a.created_on), 'modified_on', utc_text(a.modified_on))
$$;

create function technician_json(t st_technicians) returns json language sql stable as $$
  select json_build_object(
    'id', t.id, 'name', t.name, 'email', t.email, 'phone', t.phone,
    'business_unit_id', t.business_unit_id, 'team', t.team, 'active', t.active,
    'created_on', utc_text(t.created_on), 'modified_on', utc_text(t.modified_on))
$$;

create function business_unit_json(b st_business_units) returns json language sql stable as $$
  select json_build_object(
    'id', b.id, 'name', b.name, 'official_name', b.official_name, 'email', b.email,
    'phone', b.phone, 'trade', b.trade, 'division', b.division,
    'ghl_pipeline_id', b.ghl_pipeline_id, 'active', b.active)
$$;

create function job_type_json(t st_job_types) returns json language sql stable as $$
  select json_build_object(
    'id', t.id, 'name', t.name, 'class', t.class, 'priority', t.priority,
    'no_charge', t.no_charge, 'active', t.active)
$$;

create function campaign_json(c st_campaigns) returns json language sql stable as $$
  select json_build_object(
    'id', c.id, 'name', c.name, 'category', c.category, 'source', c.source, 'medium', c.medium,
    'active', c.active)
$$;

-- A stored row (JSON of the table's row) as authors see it. The row goes through a variable: in a
-- plain SQL function the JSON would be read again for every field.
create function author_json(entity text, stored json, more json, technicians json) returns json
language plpgsql stable as $$
declare
  estimate_row st_estimates;
  job_row st_jobs;
  invoice_row st_invoices;
  appointment_row st_appointments;
  customer_row st_customers;
  location_row st_locations;
  technician_row st_technicians;
begin
  if stored is null then
    return null;
  end if;
  case entity
    when 'estimate' then
      estimate_row := json_populate_record(null::st_estimates, stored);
      return estimate_json(estimate_row);
    when 'job' then
      job_row := json_populate_record(null::st_jobs, stored);
      return job_json(job_row, technicians);
    when 'invoice' then
      invoice_row := json_populate_record(null::st_invoices, stored);
      return invoice_json(invoice_row);
    when 'appointment' then
      appointment_row := json_populate_record(null::st_appointments, stored);
      return appointment_json(appointment_row, technicians);
    when 'customer' then
      customer_row := json_populate_record(null::st_customers, stored);
      return customer_json(customer_row, more);
    when 'location' then
      location_row := json_populate_record(null::st_locations, stored);
      return location_json(location_row);
    when 'technician' then
      technician_row := json_populate_record(null::st_technicians, stored);
      return technician_json(technician_row);
  end case;
end $$;

-- For each of the given rows: what it is to authors, everything it points to, and what of that
-- isn't here. wants are the missing ones as (entity, id); waiting: one of them wasn't asked for yet
-- or is being fetched. A merged customer is the one it was merged into.
create function snapshots_of(entities text[], ids text[], before json[], after json[])
returns table (n bigint, old json, new json, snapshot json, missing text[], wants jsonb,
               waiting boolean)
language sql stable rows 500 as $$
  with asked as materialized (
    select u.n, u.entity, u.before, u.after, u.entity_id::bigint as id, r.*
    from unnest(entities, ids, before, after) with ordinality
           as u (entity, entity_id, before, after, n)
    cross join lateral json_to_record(coalesce(u.after, u.before)) as r (
      customer_id bigint, location_id bigint, business_unit_id bigint, job_id bigint,
      job_type_id bigint, campaign_id bigint, invoice_id bigint, tag_ids bigint[])
  ), pointing as materialized (
    select a.*, j as job, j.id as job_found,
           case when a.entity = 'customer' then a.id
                else coalesce(m.new_id, nullif(a.customer_id, 0)) end as customer,
           case when a.entity <> 'location'
                then coalesce(nullif(a.location_id, 0),
                              case when a.entity = 'appointment' then j.location_id end) end
             as location,
           coalesce(nullif(a.business_unit_id, 0),
                    case when a.entity = 'appointment' then nullif(j.business_unit_id, 0) end)
             as business_unit,
           coalesce(nullif(a.job_type_id, 0), nullif(j.job_type_id, 0)) as job_type,
           coalesce(nullif(a.campaign_id, 0),
                    case when a.entity = 'appointment' then nullif(j.campaign_id, 0) end)
             as campaign,
           coalesce(nullif(a.invoice_id, 0),
                    case when a.entity = 'appointment' then nullif(j.invoice_id, 0) end)
             as invoice
    from asked a
    left join st_jobs j on j.id = nullif(a.job_id, 0)
    left join customer_alias m on m.old_id = a.customer_id
  ), found as materialized (
    select p.*, c as customer_row, c.id as customer_found, l as location_row, l.id as location_found,
           b as unit_row, b.id as unit_found, t as type_row, t.id as type_found, g as campaign_row,
           g.id as campaign_found, i as invoice_row, i.id as invoice_found, k.known,
           json_build_object('phone', k.phone, 'email', k.email, 'tags', coalesce(n.tags, '{}'),
                             'last_job_on', w.last_job_on) as more,
           q.crew, o.crew as job_crew
    from pointing p
    left join st_customers c on c.id = p.customer
    left join st_locations l on l.id = p.location
    left join st_business_units b on b.id = p.business_unit
    left join st_job_types t on t.id = p.job_type
    left join st_campaigns g on g.id = p.campaign
    left join st_invoices i on i.id = p.invoice
    -- A mobile number comes before a landline, one that may be texted before one that may not.
    left join lateral (
      select count(*) as known,
             (array_agg(x.phone order by (x.type = 'MobilePhone') desc, x.do_not_text, x.id)
                filter (where x.phone is not null))[1] as phone,
             (array_agg(x.email order by x.id) filter (where x.email is not null))[1] as email
      from st_contacts x where x.customer_id = p.customer and x.active) k on true
    left join lateral (
      select json_object_agg(x.name, true order by x.name) as tags from st_tag_types x
      where x.id = any(case when p.entity = 'customer' then p.tag_ids else c.tag_ids end)) n on true
    left join lateral (
      select max(x.completed_on)::date as last_job_on from st_jobs x
      where x.customer_id = p.customer and x.completed_on is not null) w on true
    left join lateral (
      select json_agg(json_build_object('id', x.id, 'name', x.name, 'phone', x.phone,
                                        'email', x.email) order by x.id) as crew
      from st_technicians x
      where p.entity in ('job', 'appointment') and x.id in (
        select a.technician_id from job_technicians a
        where a.active and (a.job_id = case when p.entity = 'job' then p.id end
                            or a.appointment_id = case when p.entity = 'appointment' then p.id end))
      ) q on true
    left join lateral (
      select json_agg(json_build_object('id', x.id, 'name', x.name, 'phone', x.phone,
                                        'email', x.email) order by x.id) as crew
      from st_technicians x
      where x.id in (select a.technician_id from job_technicians a
                     where a.active and a.job_id = p.job_found)) o on true
  ), shaped as materialized (
    select f.*,
           author_json(f.entity, f.before, f.more, f.crew) as old_shape,
           author_json(f.entity, f.after, f.more, f.crew) as new_shape
    from found f
  )
  select s.n, json_strip_nulls(s.old_shape), json_strip_nulls(s.new_shape),
    json_strip_nulls(json_build_object(
      'customer', case when s.entity = 'customer' then coalesce(s.new_shape, s.old_shape)
                       when s.customer_found is not null
                       then customer_json(s.customer_row, s.more) end,
      'location', case when s.entity = 'location' then coalesce(s.new_shape, s.old_shape)
                       when s.location_found is not null then location_json(s.location_row) end,
      'business_unit', case when s.unit_found is not null then business_unit_json(s.unit_row) end,
      'job', case when s.entity = 'job' then coalesce(s.new_shape, s.old_shape)
                  when s.job_found is not null then job_json(s.job, s.job_crew) end,
      'job_type', case when s.type_found is not null then job_type_json(s.type_row) end,
      'campaign', case when s.campaign_found is not null then campaign_json(s.campaign_row) end,
      'invoice', case when s.entity = 'invoice' then coalesce(s.new_shape, s.old_shape)
                      when s.invoice_found is not null then invoice_json(s.invoice_row) end,
      'estimate', case when s.entity = 'estimate' then coalesce(s.new_shape, s.old_shape) end,
      'appointment', case when s.entity = 'appointment' then coalesce(s.new_shape, s.old_shape) end,
      'technician', case when s.entity = 'technician' then coalesce(s.new_shape, s.old_shape) end)),
    coalesce(w.missing, '{}'), w.wants, coalesce(w.waiting, false)
  from shaped s
  left join lateral (
    select array_agg(x.entity order by x.entity) as missing,
           jsonb_agg(jsonb_build_object('entity', x.entity, 'id', x.id)) as wants,
           bool_or(q.answered_at is null or q.answered_at < clock_timestamp() - interval '20 min')
             and exists (select from sync_cursors) as waiting
    from (values
      ('customer', case when s.customer_found is null and s.entity <> 'customer'
                        then s.customer end),
      ('contacts', case when s.customer_found is not null and s.known = 0
                        then s.customer end),
      ('location', case when s.location_found is null then s.location end),
      ('business_unit', case when s.unit_found is null then s.business_unit end),
      ('job', case when s.job_found is null then nullif(s.job_id, 0) end),
      ('job_type', case when s.type_found is null then s.job_type end),
      ('campaign', case when s.campaign_found is null then s.campaign end)) as x (entity, id)
    left join parent_requests q on q.entity = x.entity and q.id = x.id
    -- A customer whose contacts were asked for, and who has none, isn't waited for.
    where x.id is not null and not (x.entity = 'contacts' and q.answered_at is not null)
  ) w on true
$$;

-- The newest record of one entity and all it points to: {"estimate": {...}, "customer": {...}}.
-- Null when there is no such row.
create function snapshot_of(entity text, entity_id text) returns json language sql stable as $$
  select s.snapshot
  from (select case entity
      when 'customer' then (select to_json(r) from st_customers r where r.id = entity_id::bigint)
      when 'location' then (select to_json(r) from st_locations r where r.id = entity_id::bigint)
      when 'job' then (select to_json(r) from st_jobs r where r.id = entity_id::bigint)
      when 'estimate' then (select to_json(r) from st_estimates r where r.id = entity_id::bigint)
      when 'invoice' then (select to_json(r) from st_invoices r where r.id = entity_id::bigint)
      when 'appointment' then
        (select to_json(r) from st_appointments r where r.id = entity_id::bigint)
      when 'technician' then
        (select to_json(r) from st_technicians r where r.id = entity_id::bigint)
    end as stored) x
  cross join lateral snapshots_of(array[entity], array[entity_id], array[null::json],
                                  array[x.stored]) s
  where x.stored is not null
$$;

-- ------------------------------------------------------------------------- reading changes

-- The feed that brings an entity.
create function feed_of(entity text) returns text language sql immutable as $$
  select entity || 's'
$$;

-- The next changes, oldest first, with everything detection needs to judge them. Those that are
-- older than the entity's live_since are history: they are dropped here, unless history is true.
-- A row with a change that waits for its parents keeps its later changes waiting too.
create function read_changes(max int, history boolean default false)
returns table (seq bigint, entity text, entity_id text, old json, new json, snapshot json,
               missing text[], modified_on timestamptz, live_since timestamptz, age interval,
               waiting boolean)
language plpgsql as $$
declare
  dropped bigint;
begin
  if not history then
    loop
      delete from changes c
      where c.seq = any(array(
        select h.seq
        from (select x.seq, x.entity, x.modified_on from changes x order by x.seq limit max) h
        join sync_cursors l on l.entity = feed_of(h.entity)
        where h.modified_on < l.live_since));
      get diagnostics dropped = row_count;
      exit when dropped <= max / 2;
    end loop;
  end if;
  -- What else belongs to a change goes in arrays beside it: a join of the batch with its snapshots
  -- could be planned so that they are made anew for each of its rows.
  return query
    with due as materialized (
      select c.* from changes c
      where (c.retry_at is null or c.retry_at <= clock_timestamp())
        and not exists (select from changes w
                        where w.retry_at > clock_timestamp() and w.entity = c.entity
                          and w.entity_id = c.entity_id and w.seq < c.seq)
      order by c.seq limit (select max) -- unknown to the planner, which keeps its plan for it
    ), lists as materialized (
      select array_agg(d.seq order by d.seq) as seqs, array_agg(d.entity order by d.seq) as entities,
             array_agg(d.entity_id order by d.seq) as ids, array_agg(d.old order by d.seq) as olds,
             array_agg(d.new order by d.seq) as news,
             array_agg(d.noticed_at order by d.seq) as noticed,
             array_agg(coalesce(d.modified_on,
                                (coalesce(d.new, d.old) ->> 'modified_on')::timestamptz, 'infinity')
                       order by d.seq) as modified
      from due d
    )
    select a.seqs[s.n], a.entities[s.n], a.ids[s.n], s.old, s.new, s.snapshot, s.missing,
           nullif(a.modified[s.n], 'infinity'), l.live_since,
           clock_timestamp() - a.noticed[s.n], s.waiting
    from lists a
    cross join lateral snapshots_of(a.entities, a.ids, a.olds, a.news) s
    left join sync_cursors l on l.entity = feed_of(a.entities[s.n])
    order by s.n;
end $$;

-- These changes wait for what they point to: it is asked for by id, and they come again soon, more
-- slowly as they get older.
create function postpone_changes(seqs bigint[]) returns void language plpgsql as $$
begin
  update changes c
  set retry_at = clock_timestamp()
                 + least(greatest((clock_timestamp() - c.noticed_at) / 4, interval '2 s'),
                         interval '30 s')
  where c.seq = any(seqs);
  insert into parent_requests as r (entity, id)
  select distinct w.entity, w.id
  from (select array_agg(c.entity order by c.seq) as entities,
               array_agg(c.entity_id order by c.seq) as ids, array_agg(c.old order by c.seq) as olds,
               array_agg(c.new order by c.seq) as news
        from changes c where c.seq = any(seqs)) a
  cross join lateral snapshots_of(a.entities, a.ids, a.olds, a.news) s
  cross join lateral jsonb_to_recordset(s.wants) as w (entity text, id bigint)
  order by 1, 2
  on conflict (entity, id) do update set asked_at = clock_timestamp(), answered_at = null
  where r.answered_at < clock_timestamp() - interval '20 min';
  if found then
    perform pg_notify('sync', '');
  end if;
end $$;

-- They are settled: part of the settling unit, which must not commit unless all were still there.
create function consume_changes(seqs bigint[]) returns void language plpgsql as $$
declare
  gone bigint;
begin
  delete from changes c where c.seq = any(seqs);
  get diagnostics gone = row_count;
  if gone <> (select count(distinct x) from unnest(seqs) x) then
    raise exception 'changes were settled by somebody else' using errcode = 'MWC01';
  end if;
end $$;

-- The same where changes live in another database than events: sent after the settling unit, maybe
-- again. Settling twice is harmless, as events are unique.
create function drop_changes(seqs bigint[]) returns bigint language sql as $$
  with gone as (delete from changes c where c.seq = any(seqs) returning 1) select count(*) from gone
$$;

-- How to reach a customer, and how sure we may be of what we know: one JSON object. Null: no such
-- customer.
create function recipient(customer_id bigint) returns json language sql stable as $$
  select json_build_object(
    'customer_id', c.id, 'name', c.name, 'first_name', c.first_name,
    'phone', k.phone, 'phones', coalesce(k.phones, '[]'), 'email', k.email,
    'zone', c.zone, 'state', c.state, 'zip', c.zip, 'active', c.active,
    'do_not_service', c.do_not_service, 'do_not_mail', c.do_not_mail,
    'do_not_text', coalesce(k.do_not_text, false),
    -- A refusal of marketing anywhere counts; the two below are of the chosen addresses alone.
    'marketing_consent', k.marketing, 'phone_consent', k.phone_marketing,
    'email_consent', k.email_marketing,
    'stale_seconds', (select case when count(completed_at) = 5
                                  then round(extract(epoch from clock_timestamp()
                                                                - min(completed_at))) end
                      from sync_cursors where entity in ('customers', 'estimates', 'jobs',
                                                         'invoices', 'appointments')),
    'backlog_seconds', (select round(extract(epoch from clock_timestamp() - noticed_at))
                        from changes order by seq limit 1),
    -- After the sync stood still, until what it brought then is settled.
    'catching_up', (select c.noticed_at from changes c where c.retry_at is null
                    order by c.seq limit 1)
                   <= (select max(s.resumed_at) from sync_cursors s))
  from st_customers c
  cross join lateral (
    select f.phone, f.do_not_text, f.phone_marketing, e.email, e.email_marketing,
           (select json_agg(distinct p.phone) from st_contacts p
            where p.customer_id = c.id and p.active and p.phone is not null) as phones,
           (select bool_and(p.marketing) from st_contacts p
            where p.customer_id = c.id and p.active) as marketing
    from (select 1) one
    left join lateral (select p.phone, p.do_not_text, p.marketing as phone_marketing
                       from st_contacts p
                       where p.customer_id = c.id and p.active and p.phone is not null
                         and p.type <> 'Fax'
                       order by (p.type = 'MobilePhone') desc, p.do_not_text, p.id limit 1) f on true
    left join lateral (select p.email, p.marketing as email_marketing from st_contacts p
                       where p.customer_id = c.id and p.active and p.email is not null
                       order by p.id limit 1) e on true) k
  where c.id = customer_resolved($1)
$$;

-- Everyone who has this phone number or e-mail address (merged ones by their new id).
create function customers_by_address(address text) returns setof bigint language sql stable as $$
  select distinct customer_resolved(c.customer_id) from st_contacts c
  where c.active and (c.phone = address or c.email = lower(btrim(address)))
  order by 1
$$;
