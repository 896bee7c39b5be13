-- database: servicetitan
-- The read-only face of the copied data, for authors' queries, people and AI clients: the columns
-- and names of authoring, typed. A view reads its tables as its owner, so a login that may only
-- select from views sees nothing else.

create view customers as
select c.id, c.name, c.first_name, c.last_name, c.type, k.phone, k.email,
       address_line(c.street, c.unit) as address, c.city, c.state, c.zip,
       c.zone, dollars(c.balance) as balance, g.tags, c.active,
       c.do_not_service, c.do_not_mail,
       (select max(j.completed_on)::date from st_jobs j
        where j.customer_id = c.id and j.completed_on is not null) as last_job_on,
       c.merged_to_id, c.created_on, c.modified_on
from st_customers c
left join lateral (
  select (array_agg(x.phone order by (x.type = 'MobilePhone') desc, x.do_not_text, x.id)
            filter (where x.phone is not null))[1] as phone,
         (array_agg(x.email order by x.id) filter (where x.email is not null))[1] as email
  from st_contacts x where x.customer_id = c.id and x.active) k on true
left join lateral (select coalesce(json_object_agg(t.name, true order by t.name), '{}') as tags
                   from st_tag_types t where t.id = any(c.tag_ids)) g on true;

create view contacts as
select id, customer_id, type, value, phone, email, memo, do_not_text, marketing, active, created_on,
       modified_on
from st_contacts;

create view locations as
select l.id, l.customer_id, l.name, address_line(l.street, l.unit) as address, l.city, l.state,
       l.zip, l.zone, l.zone_id, l.active, l.created_on,
       l.modified_on
from st_locations l;

create view technicians as
select t.id, t.name, t.email, t.phone,
       t.business_unit_id, t.team, t.active, t.created_on, t.modified_on
from st_technicians t;

create view jobs as
select j.id, j.number, j.status, j.priority, j.completed_on, dollars(j.total) as total,
       coalesce(j.no_charge, false) as no_charge, j.recall_for_id, j.cancel_reason, j.summary,
       w.technicians, j.customer_id, j.location_id, j.business_unit_id, j.job_type_id,
       j.campaign_id, j.invoice_id, j.created_from_estimate_id, j.active, j.created_on,
       j.modified_on
from st_jobs j
cross join lateral (
  select coalesce(json_agg(json_strip_nulls(json_build_object('id', t.id, 'name', t.name,
           'phone', t.phone, 'email', t.email)) order by t.id), '[]')
           as technicians
  from st_technicians t
  where t.id in (select a.technician_id from job_technicians a where a.active and a.job_id = j.id)) w;

create view estimates as
select e.id, e.name, e.status, dollars(e.subtotal) as subtotal, dollars(e.tax) as tax,
       dollars(coalesce(e.subtotal, 0) + coalesce(e.tax, 0)) as total,
       coalesce(e.items, '[]') as items, e.summary, e.sold_on, e.sold_by,
       coalesce(e.is_change_order, false) as is_change_order, e.job_id, e.job_number, e.customer_id,
       e.location_id, e.business_unit_id, e.active, e.created_on, e.modified_on
from st_estimates e;

create view invoices as
select i.id, i.number, dollars(i.subtotal) as subtotal, dollars(i.tax) as tax, dollars(i.total) as total,
       dollars(i.balance) as balance, i.invoice_date, i.due_date, i.paid_on,
       coalesce(i.items, '[]') as items, i.summary, i.type, i.adjustment_to_id, i.job_id,
       i.customer_id, i.location_id, i.business_unit_id, i.active, i.created_on, i.modified_on
from st_invoices i;

create view appointments as
select a.id, a.number, a.status, a.start, a.end_at, a.arrival_window_start, a.arrival_window_end,
       coalesce(a.is_confirmed, false) as is_confirmed, a.special_instructions, w.technicians,
       a.job_id, a.customer_id, a.active, a.created_on, a.modified_on
from st_appointments a
cross join lateral (
  select coalesce(json_agg(json_strip_nulls(json_build_object('id', t.id, 'name', t.name,
           'phone', t.phone, 'email', t.email)) order by t.id), '[]')
           as technicians
  from st_technicians t
  where t.id in (select x.technician_id from job_technicians x
                 where x.active and x.appointment_id = a.id)) w;

create view business_units as
select b.id, b.name, b.official_name, b.email, b.phone, b.trade, b.division, b.ghl_pipeline_id,
       b.active
from st_business_units b;

create view job_types as
select t.id, t.name, t.class, t.priority, t.no_charge, t.active from st_job_types t;

create view campaigns as
select c.id, c.name, c.category, c.source, c.medium, c.active from st_campaigns c;

create view sync_log as
select id, entity, whole, state, pages, rows_read, written, unchanged, rejected, started_at,
       finished_at, seconds, error
from st_sync_log;
