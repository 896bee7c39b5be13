-- database: servicetitan
-- What is copied out of ServiceTitan, and the bookkeeping of copying it. No foreign keys: children
-- arrive before their parents as a rule, and a page must never be refused for that. Rows that
-- ServiceTitan deactivates or deletes stay, with active = false. modified_on is the vendor's own
-- time: a row is never replaced by one with an older modified_on. synced_at is only ours.

-- ---------------------------------------------------------------- small functions without tables

-- "+15125550100", or null where that isn't certain. Extensions are cut off.
create or replace function phone_e164(phone text) returns text language sql immutable as $$
  select case
           when plus and length(digits) between 7 and 15 then '+' || digits
           when not plus and length(digits) = 10 then '+1' || digits
           when not plus and length(digits) = 11 and digits like '1%' then '+' || digits
         end
  from (select main like '+%' as plus, regexp_replace(main, '[^0-9]', '', 'g') as digits
        from (select btrim(regexp_replace(phone, '\s*(x|ext\.?|extension|#)\s*[0-9]+\s*$', '', 'i'))
                as main) a) b
$$;

create or replace function email_normal(email text) returns text language sql immutable as $$
  select case when address ~ '^[^@\s<>,;]+@[^@\s<>,;]+\.[^@\s<>,;]+$' then address end
  from (select lower(btrim(email)) as address) a
$$;

-- What a contact of that type is good for.
create function contact_phone(type text, value text) returns text language sql immutable as $$
  select case when type in ('Phone', 'MobilePhone') then phone_e164(value) end
$$;

create function contact_email(type text, value text) returns text language sql immutable as $$
  select case when type = 'Email' then email_normal(value) end
$$;

-- The time zone of an address in the United States; null where it isn't known. States that lie in
-- two zones are split by the first three digits of the ZIP code.
create or replace function customer_zone(state text, zip text) returns text language sql immutable as $$
  select case
    when s in ('CT','DE','DC','GA','ME','MD','MA','NH','NJ','NY','NC','OH','PA','RI','SC','VT','VA',
               'WV') then 'America/New_York'
    when s = 'FL' then case when z in ('324', '325') then 'America/Chicago'
                            when z is not null then 'America/New_York' end
    when s = 'MI' then case when z in ('498', '499') then null
                            when z is not null then 'America/Detroit' end
    when s = 'IN' then case when z in ('463', '464', '476', '477') then 'America/Chicago'
                            when z is not null then 'America/Indiana/Indianapolis' end
    when s = 'KY' then case when z in ('420','421','422','423','424','427') then 'America/Chicago'
                            when z is not null then 'America/New_York' end
    when s = 'TN' then case when z in ('373','374','376','377','378','379') then 'America/New_York'
                            when z is not null then 'America/Chicago' end
    when s in ('AL','AR','IL','IA','LA','MN','MS','MO','OK','WI') then 'America/Chicago'
    when s = 'TX' then case when z in ('798', '799', '885') then 'America/Denver'
                            when z is not null then 'America/Chicago' end
    when s = 'KS' then case when z in ('677', '678') then null
                            when z is not null then 'America/Chicago' end
    when s = 'NE' then case when z in ('691', '693') then 'America/Denver'
                            when z is not null then 'America/Chicago' end
    when s = 'ND' then case when z in ('586', '588') then null
                            when z is not null then 'America/Chicago' end
    when s = 'SD' then case when z = '577' then 'America/Denver'
                            when z in ('575', '576') then null
                            when z is not null then 'America/Chicago' end
    when s in ('CO','MT','NM','UT','WY') then 'America/Denver'
    when s = 'AZ' then case when z = '865' then null when z is not null then 'America/Phoenix' end
    when s = 'ID' then case when z in ('835', '838') then 'America/Los_Angeles'
                            when z is not null then 'America/Boise' end
    when s = 'OR' then case when z = '979' then null
                            when z is not null then 'America/Los_Angeles' end
    when s in ('CA','NV','WA') then 'America/Los_Angeles'
    when s = 'AK' then 'America/Anchorage'
    when s = 'HI' then 'Pacific/Honolulu'
    when s = 'PR' then 'America/Puerto_Rico'
  end
  from (select upper(btrim(state)) as s,
               case when btrim(zip) ~ '^[0-9]{5}' then left(btrim(zip), 3) end as z) a
$$;

-- First and last name of a private person: from "Ann Lee", "Ann B. Lee" or "Lee, Ann", else null.
-- Two people, titles and firms are never guessed at.
create function person_name(name text, type text) returns text[] language sql immutable as $$
  select case
    when type is distinct from 'Residential' then null
    when n ~* '(&|\yand\y|\yllc\y|\yinc\y|\ycorp\y|\yco\y|\ytrust\y|\yestate\y|\yfamily\y|\ythe\y|\ymr\y|\ymrs\y|\yms\y|\ydr\y|\yllp\y|\yhoa\y|[0-9/()@])'
      then null
    when n ~ '^[[:alpha:]][[:alpha:]''’-]+ ([[:alpha:]]\.? )?[[:alpha:]][[:alpha:]''’-]+$'
      then array[regexp_replace(n, ' .*$', ''), regexp_replace(n, '^.* ', '')]
    when n ~ '^[[:alpha:]][[:alpha:]''’-]+, ?[[:alpha:]][[:alpha:]''’-]+( [[:alpha:]]\.?)?$'
      then array[regexp_replace(regexp_replace(n, '^[^,]*, ?', ''), ' .*$', ''),
                 regexp_replace(n, ',.*$', '')]
  end
  from (select btrim(regexp_replace(name, '\s+', ' ', 'g')) as n) a
$$;

-- ServiceTitan's job status is free text: "In Progress", "inprogress" and "InProgress" are one.
create function job_status(status text) returns text language sql immutable as $$
  select case s when 'scheduled' then 'Scheduled' when 'dispatched' then 'Dispatched'
                when 'inprogress' then 'InProgress' when 'working' then 'InProgress'
                when 'hold' then 'Hold' when 'onhold' then 'Hold'
                when 'completed' then 'Completed' when 'done' then 'Completed'
                when 'canceled' then 'Canceled' when 'cancelled' then 'Canceled'
                else btrim(status) end
  from (select lower(regexp_replace(status, '[^[:alpha:]]', '', 'g')) as s) a
$$;

-- The lines of an estimate and of an invoice as authors see them: money as numbers.
create function estimate_items(items jsonb) returns jsonb language sql immutable as $$
  select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
           'id', i -> 'id', 'sku_id', i -> 'sku' -> 'id', 'sku', i -> 'sku' -> 'name',
           'name', coalesce(i -> 'sku' ->> 'displayName', i -> 'sku' ->> 'name'),
           'type', i -> 'sku' -> 'type', 'description', i -> 'description', 'qty', i -> 'qty',
           'unit_rate', i -> 'unitRate', 'total', i -> 'total')) order by n), '[]')
  from jsonb_array_elements(case jsonb_typeof(items) when 'array' then items else '[]' end)
       with ordinality as x(i, n)
$$;

create function invoice_items(items jsonb) returns jsonb language sql immutable as $$
  select coalesce(jsonb_agg(jsonb_strip_nulls(jsonb_build_object(
           'id', i -> 'id', 'sku_id', i -> 'skuId', 'sku', i -> 'skuName',
           'name', coalesce(i ->> 'displayName', i ->> 'skuName'), 'type', i -> 'type',
           'description', i -> 'description', 'qty', nullif(i ->> 'quantity', '')::numeric,
           'unit_rate', nullif(i ->> 'price', '')::numeric,
           'total', nullif(i ->> 'total', '')::numeric)) order by n), '[]')
  from jsonb_array_elements(case jsonb_typeof(items) when 'array' then items else '[]' end)
       with ordinality as x(i, n)
$$;

-- ------------------------------------------------------------------------------ copied tables

create table st_business_units (
  id bigint primary key,
  active boolean not null default true,
  name text not null,
  official_name text,
  email text,
  phone text,
  trade text,
  division text,
  ghl_pipeline_id text,                  -- ours: the GHL pipeline of its opportunities
  created_on timestamptz,
  modified_on timestamptz not null,
  synced_at timestamptz not null default now()
);

create table st_tag_types (
  id bigint primary key,
  active boolean not null default true,
  name text not null,
  created_on timestamptz,
  modified_on timestamptz not null,
  synced_at timestamptz not null default now()
);

create table st_job_types (
  id bigint primary key,
  active boolean not null default true,
  name text not null,
  class text,
  priority text,
  duration bigint,
  no_charge boolean,
  business_unit_ids bigint[],
  created_on timestamptz,
  modified_on timestamptz not null,
  synced_at timestamptz not null default now()
);

create table st_campaigns (
  id bigint primary key,
  active boolean not null default true,
  name text not null,
  category text,
  source text,
  medium text,
  created_on timestamptz,
  modified_on timestamptz not null,
  synced_at timestamptz not null default now()
);

create table st_technicians (
  id bigint primary key,
  active boolean not null default true,
  name text not null,
  business_unit_id bigint,
  email text,
  phone text,
  team text,
  created_on timestamptz,
  modified_on timestamptz not null,
  synced_at timestamptz not null default now()
);
create index st_technicians_business_unit on st_technicians (business_unit_id);

create table st_customers (
  id bigint primary key,
  active boolean not null default true,
  name text not null,
  type text,
  first_name text generated always as ((person_name(name, type))[1]) stored,
  last_name text generated always as ((person_name(name, type))[2]) stored,
  street text,
  unit text,
  city text,
  state text,
  zip text,
  country text,
  zone text generated always as (customer_zone(state, zip)) stored,
  balance numeric,
  tag_ids bigint[],
  do_not_mail boolean not null default false,
  do_not_service boolean not null default false,
  national_account boolean,
  merged_to_id bigint,
  created_on timestamptz,
  modified_on timestamptz not null,
  synced_at timestamptz not null default now()
);
create index st_customers_modified on st_customers (modified_on);

create table st_contacts (
  id bigint primary key,
  customer_id bigint not null,
  active boolean not null default true,
  type text not null,                    -- Phone, MobilePhone, Email, Fax
  value text not null,                   -- as ServiceTitan has it
  phone text,                            -- E.164
  email text,                            -- normalised
  memo text,
  do_not_text boolean not null default false,
  marketing boolean,                     -- consent to marketing as recorded there; null: not recorded
  reminders boolean,
  created_on timestamptz,
  modified_on timestamptz not null,
  synced_at timestamptz not null default now()
);
create index st_contacts_customer on st_contacts (customer_id);
create index st_contacts_phone on st_contacts (phone) where phone is not null;
create index st_contacts_email on st_contacts (email) where email is not null;

create table st_locations (
  id bigint primary key,
  customer_id bigint,
  active boolean not null default true,
  name text,
  street text,
  unit text,
  city text,
  state text,
  zip text,
  country text,
  zone text generated always as (customer_zone(state, zip)) stored,
  zone_id bigint,
  tag_ids bigint[],
  merged_to_id bigint,
  created_on timestamptz,
  modified_on timestamptz not null,
  synced_at timestamptz not null default now()
);
create index st_locations_customer on st_locations (customer_id);

create table st_jobs (
  id bigint primary key,
  active boolean not null default true,
  number text,
  customer_id bigint,
  location_id bigint,
  business_unit_id bigint,
  job_type_id bigint,
  campaign_id bigint,
  invoice_id bigint,
  project_id bigint,
  status text,
  priority text,
  completed_on timestamptz,
  total numeric,
  no_charge boolean,
  recall_for_id bigint,
  created_from_estimate_id bigint,
  estimate_ids bigint[],
  lead_call_id bigint,
  booking_id bigint,
  membership_id bigint,
  sold_by_id bigint,
  customer_po text,
  cancel_reason text,
  summary text,
  tag_ids bigint[],
  created_on timestamptz,
  modified_on timestamptz not null,
  synced_at timestamptz not null default now()
);
create index st_jobs_customer on st_jobs (customer_id, completed_on);
create index st_jobs_location on st_jobs (location_id);
create index st_jobs_business_unit on st_jobs (business_unit_id);

create table st_estimates (
  id bigint primary key,
  active boolean not null default true,
  name text,
  status text,                           -- Open, Sold, Dismissed
  review_status text,                    -- an internal review, not the customer's answer
  job_id bigint,
  job_number text,
  project_id bigint,
  customer_id bigint,
  location_id bigint,
  business_unit_id bigint,
  subtotal numeric,
  tax numeric,
  items jsonb,
  summary text,
  sold_on timestamptz,
  sold_by bigint,
  is_change_order boolean,
  is_recommended boolean,
  created_on timestamptz,
  modified_on timestamptz not null,
  synced_at timestamptz not null default now()
);
create index st_estimates_customer on st_estimates (customer_id);
create index st_estimates_job on st_estimates (job_id);

create table st_invoices (
  id bigint primary key,
  active boolean not null default true,
  number text,
  customer_id bigint,
  location_id bigint,
  business_unit_id bigint,
  job_id bigint,
  type text,
  sync_status text,
  sent_status text,
  review_status text,
  invoice_date date,
  due_date date,
  subtotal numeric,
  tax numeric,
  total numeric,
  balance numeric,
  items jsonb,
  summary text,
  adjustment_to_id bigint,
  paid_on timestamptz,
  created_on timestamptz,
  modified_on timestamptz not null,
  synced_at timestamptz not null default now()
);
create index st_invoices_customer on st_invoices (customer_id);
create index st_invoices_job on st_invoices (job_id);
create index st_invoices_open on st_invoices (due_date) where balance > 0;

create table st_appointments (
  id bigint primary key,
  active boolean not null default true,
  job_id bigint,
  customer_id bigint,
  number text,
  status text,
  start timestamptz,
  end_at timestamptz,
  arrival_window_start timestamptz,
  arrival_window_end timestamptz,
  special_instructions text,
  is_confirmed boolean,
  unused boolean,
  created_on timestamptz,
  modified_on timestamptz not null,
  synced_at timestamptz not null default now()
);
create index st_appointments_job on st_appointments (job_id);
create index st_appointments_customer on st_appointments (customer_id);

-- ServiceTitan's appointment assignments: who works on which job, by appointment.
create table job_technicians (
  id bigint primary key,
  job_id bigint not null,
  technician_id bigint not null,
  appointment_id bigint,
  active boolean not null default true,
  status text,
  technician_name text,
  assigned_on timestamptz,
  created_on timestamptz,
  modified_on timestamptz not null,
  synced_at timestamptz not null default now()
);
create index job_technicians_job on job_technicians (job_id);
create index job_technicians_technician on job_technicians (technician_id);
create index job_technicians_appointment on job_technicians (appointment_id);

-- Merged customers; new_id is where the whole chain of merges ends.
create table customer_alias (
  old_id bigint primary key,
  new_id bigint not null,
  noticed_at timestamptz not null default now(),
  check (old_id <> new_id)
);
create index customer_alias_new on customer_alias (new_id);

create function customer_resolved(customer_id bigint) returns bigint language sql stable as $$
  select coalesce((select a.new_id from customer_alias a where a.old_id = $1), $1)
$$;

-- -------------------------------------------------------------------------- bookkeeping of sync

-- Where each feed goes on. The cursor moves in the transaction that writes its page, and only from
-- the value the page was asked with, so that no two runs can both take it further.
create table sync_cursors (
  entity text primary key,               -- a feed: customers, contacts, estimates, ...
  cursor text,                           -- null: from the beginning
  live_since timestamptz,                -- the vendor's clock when the first import began
  completed_at timestamptz,              -- real time: when everything there was had been read
  resumed_at timestamptz,                -- when it was so for the first time, or after a long while
  rows_seen bigint not null default 0
);

create table st_sync_log (
  id bigint generated always as identity primary key,
  entity text not null,
  whole boolean not null,                -- read again from the beginning
  state text not null default 'running', -- running, done, failed, yielded, interrupted
  pages int not null default 0,
  rows_read bigint not null default 0,
  written bigint not null default 0,
  unchanged bigint not null default 0,
  rejected bigint not null default 0,
  started_at timestamptz not null default clock_timestamp(),
  progress_at timestamptz not null default clock_timestamp(),
  finished_at timestamptz,
  seconds numeric,
  error text
) with (fillfactor = 70);
create index st_sync_log_entity on st_sync_log (entity, id);
create index st_sync_log_running on st_sync_log (entity) where state = 'running';

-- Rows that couldn't be stored, as they came.
create table st_rejects (
  id bigint generated always as identity primary key,
  entity text not null,
  entity_id text not null,               -- '' where the row has no readable id
  digest text not null,                  -- of raw
  raw text not null,
  error text not null,
  times int not null default 1,
  rejected_at timestamptz not null default now(),
  resolved_at timestamptz,               -- a later version of the row was stored
  unique (entity, entity_id, digest)
);
create index st_rejects_open on st_rejects (entity) where resolved_at is null;

-- Rows that something refers to and that aren't here yet, to be fetched by id. 'contacts' are the
-- contacts of the customer with that id.
create table parent_requests (
  entity text not null,
  id bigint not null,
  asked_at timestamptz not null default clock_timestamp(),
  answered_at timestamptz,               -- fetched, found or not
  primary key (entity, id)
);
create index parent_requests_open on parent_requests (entity, asked_at) where answered_at is null;

-- A run of one feed begins: its number and where it goes on. With whole it starts from the
-- beginning. A run that made no progress for five minutes is dead.
create function sync_begin(feed text, from_start boolean)
returns table (run bigint, go_on text, first boolean) language plpgsql as $$
begin
  update st_sync_log l set state = 'interrupted', finished_at = clock_timestamp()
  where l.entity = feed and l.state = 'running'
    and l.progress_at < clock_timestamp() - interval '5 minutes';
  delete from st_sync_log l
  where l.id in (select o.id from st_sync_log o where o.entity = feed order by o.id limit 50)
    and l.started_at < now() - interval '30 days';
  insert into sync_cursors (entity) values (feed) on conflict do nothing;
  if from_start then
    update sync_cursors c set cursor = null where c.entity = feed and c.cursor is not null;
  end if;
  return query
    with logged as (
      insert into st_sync_log (entity, whole)
      select feed, c.cursor is null from sync_cursors c where c.entity = feed returning id)
    select l.id, c.cursor, c.live_since is null
    from logged l, sync_cursors c where c.entity = feed;
end $$;

-- A page of a run landed: counts it and, when it is complete, moves the cursor. It raises MWS01
-- when the cursor isn't where the page was asked from: then nothing of the page happens.
create function sync_landed(run bigint, feed text, asked_from text, goes_on_at text, vendor_time
  timestamptz, complete boolean, row_count bigint, written_count bigint) returns void
language plpgsql as $$
begin
  if complete then
    update sync_cursors c
    set cursor = goes_on_at, live_since = coalesce(c.live_since, vendor_time),
        rows_seen = c.rows_seen + row_count
    where c.entity = feed and c.cursor is not distinct from asked_from;
    if not found then
      raise exception 'another run moved the cursor of %', feed using errcode = 'MWS01';
    end if;
  else
    update sync_cursors c set live_since = vendor_time
    where c.entity = feed and c.live_since is null and vendor_time is not null;
  end if;
  if run is not null then
    update st_sync_log l
    set pages = l.pages + complete::int, rows_read = l.rows_read + row_count,
        written = l.written + written_count, unchanged = l.unchanged + row_count - written_count,
        progress_at = clock_timestamp()
    where l.id = run;
  end if;
end $$;

create function sync_reject(run bigint, feed text, row_id text, row_text text, problem text)
returns void language plpgsql as $$
begin
  insert into st_rejects as r (entity, entity_id, digest, raw, error)
  values (feed, coalesce(row_id, ''), md5(row_text), row_text, problem)
  on conflict (entity, entity_id, digest) do update
  set times = r.times + 1, error = excluded.error, rejected_at = now(), resolved_at = null;
  update st_sync_log l set rows_read = l.rows_read + 1, rejected = l.rejected + 1,
         progress_at = clock_timestamp()
  where l.id = run;
end $$;

-- A run ends. Only one that read everything there was makes the feed complete.
create function sync_finish(run bigint, feed text, outcome text, problem text) returns void
language plpgsql as $$
begin
  update st_sync_log l
  set state = outcome, error = problem, finished_at = clock_timestamp(),
      progress_at = clock_timestamp(),
      seconds = round(extract(epoch from clock_timestamp() - l.started_at)::numeric, 3)
  where l.id = run and l.state in ('running', 'interrupted');
  if outcome = 'done' then
    update sync_cursors c
    set completed_at = clock_timestamp(),
        resumed_at = case when c.completed_at > clock_timestamp() - interval '15 minutes'
                          then c.resumed_at else clock_timestamp() end
    where c.entity = feed;
  end if;
end $$;

-- Up to 50 ids per kind that are to be fetched.
create function parents_wanted() returns table (entity text, ids text) language sql stable as $$
  select w.entity, string_agg(w.id::text, ',' order by w.id)
  from (select r.entity, r.id, row_number() over (partition by r.entity order by r.asked_at) as n
        from parent_requests r where r.answered_at is null) w
  where w.n <= 50 group by w.entity
$$;

-- They were fetched, found or not. When nothing more is asked for, changes that wait are looked at
-- again at once.
create function parents_answered(kind text, ids bigint[]) returns void language plpgsql as $$
begin
  update parent_requests r set answered_at = clock_timestamp()
  where r.entity = kind and r.id = any(ids) and r.answered_at is null;
  if not exists (select from parent_requests r where r.answered_at is null) then
    update changes c set retry_at = clock_timestamp() where c.retry_at > clock_timestamp();
    if found then
      perform pg_notify('changes', '');
    end if;
  end if;
end $$;
