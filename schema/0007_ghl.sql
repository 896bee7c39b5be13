-- database: engine
-- What GoHighLevel knows under which id, so that nothing is looked up or made twice, and what other
-- vendors and our own people leave here. Shadow rows carry ids that begin with 'shadow:' and are
-- seen by shadow instances only. Rows without a record of ServiceTitan are what a copy of GHL found
-- there besides.

create table ghl_contacts (
  st_customer_id bigint,                 -- null: nobody of ServiceTitan's
  shadow boolean not null default false,
  ghl_id text,                           -- null: being made by `owner`
  owner text,                            -- instance/run/step
  claimed_at timestamptz,                -- real time
  sent_hash text,                        -- of the body GHL has
  conflict boolean not null default false,
  synced_at timestamptz,                 -- business time
  name text,                             -- as GHL last listed it
  phone text,
  email text,
  tags json,
  seen_at timestamptz,                   -- business time of that
  unique (st_customer_id, shadow)
);
create index ghl_contacts_id on ghl_contacts (ghl_id);
create unique index ghl_contacts_unmatched on ghl_contacts (ghl_id) where st_customer_id is null;

-- An opportunity by what it is about: 'estimate', 'job', ... and its id. Several rows may have the
-- same GHL id where a location allows one opportunity per contact.
create table ghl_opportunities (
  of text,                               -- null: about nothing of ServiceTitan's
  of_id bigint,
  shadow boolean not null default false,
  ghl_id text,                           -- null: being made by `owner`
  owner text,
  claimed_at timestamptz,
  taken_over boolean not null default false, -- an earlier owner may have made it
  st_customer_id bigint,
  st_estimate_id bigint,
  st_job_id bigint,
  ghl_contact_id text,
  name text,
  pipeline_id text,
  pipeline text,
  pipeline_stage_id text,
  stage text,
  status text,
  monetary_value numeric,
  moved boolean not null default false,  -- placed by a move: a sync no longer sets its stage
  moved_at timestamptz,                  -- business time of the step that moved it last
  conflict boolean not null default false,
  synced_at timestamptz,
  seen_at timestamptz,                   -- business time at which GHL last listed it
  unique (of, of_id, shadow)
);
create index ghl_opportunities_id on ghl_opportunities (ghl_id);
create unique index ghl_opportunities_unmatched on ghl_opportunities (ghl_id) where of is null;
create index ghl_opportunities_job on ghl_opportunities (st_job_id) where st_job_id is not null;
create index ghl_opportunities_customer on ghl_opportunities (st_customer_id);

-- Pipelines and their stages by name, as GHL last listed them.
create table ghl_pipelines (
  location_id text not null,
  id text not null,
  name text not null,
  stages json not null,                  -- [{"id", "name", "position"}]
  fetched_at timestamptz not null default clock_timestamp(),
  primary key (location_id, id)
);

-- A walk through all that GHL has of a kind, page by page. One that stopped on its way goes on
-- where it was.
create table ghl_walks (
  kind text primary key,                 -- contacts, opportunities
  owner text not null,                   -- instance/run/step
  cursor json,                           -- of the next page; null: the first
  counts jsonb not null default '{}',
  began_at timestamptz not null,         -- business time
  touched_at timestamptz not null,       -- real time
  ended_at timestamptz                   -- business time
);

create table callrail_calls (
  id text primary key,
  company_id text,
  direction text,
  answered boolean,
  call_type text,
  lead_status text,
  duration int,
  customer_phone text,
  customer_name text,
  tracking_phone text,
  source text,
  recording text,
  started_at timestamptz,
  received_at timestamptz not null default now(),
  raw json not null
);
create index callrail_calls_phone on callrail_calls (customer_phone, started_at);

create table staff_tasks (
  id uuid primary key,
  instance_id uuid,
  step text,
  role text not null,                    -- of company.people
  title text not null,
  note text,
  customer_id bigint,
  due_at timestamptz,                    -- business time
  created_at timestamptz not null,
  done_at timestamptz,
  done_by text,
  cancelled_at timestamptz,
  shadow boolean not null default false,
  -- an approval: `note` may be edited by whoever answers
  approval boolean not null default false,
  yes text,
  no text,
  approved boolean,
  answer_text text,
  answer_note text
);
create index staff_tasks_open on staff_tasks (role, due_at)
  where done_at is null and cancelled_at is null;

-- Keeps pipelines that were listed; one that is gone goes.
create function ghl_store_pipelines(p_location text, p_list json) returns void language plpgsql as $$
begin
  if json_typeof(p_list) is distinct from 'array' then
    raise exception 'GHL listed no pipelines';
  end if;
  insert into ghl_pipelines (location_id, id, name, stages, fetched_at)
  select p_location, x->>'id', x->>'name', coalesce(x->'stages', '[]'), clock_timestamp()
  from json_array_elements(p_list) x where x->>'id' is not null order by x->>'id'
  on conflict (location_id, id) do update set name = excluded.name, stages = excluded.stages,
    fetched_at = excluded.fetched_at;
  delete from ghl_pipelines where location_id = p_location and not exists (
    select from json_array_elements(p_list) x where x->>'id' = id);
end
$$;

-- Says who may make the contact of a customer: 'have' (it has an id), 'mine' or 'wait' (somebody
-- else is at it). A claim whose owner was not heard of for five minutes is taken over.
create function ghl_claim_contact(p_customer bigint, p_shadow boolean, p_owner text) returns json
language plpgsql as $$
declare
  c ghl_contacts;
begin
  insert into ghl_contacts (st_customer_id, shadow, owner, claimed_at)
  values (p_customer, p_shadow, p_owner, clock_timestamp()) on conflict do nothing;
  select * into c from ghl_contacts where st_customer_id = p_customer and shadow = p_shadow for update;
  if c.ghl_id is null and c.owner is distinct from p_owner
     and c.claimed_at > clock_timestamp() - interval '5 minutes' then
    return json_build_object('verdict', 'wait');
  end if;
  if c.ghl_id is null then
    update ghl_contacts set owner = p_owner, claimed_at = clock_timestamp()
    where st_customer_id = p_customer and shadow = p_shadow;
  end if;
  return json_build_object('verdict', case when c.ghl_id is null then 'mine' else 'have' end,
    'id', c.ghl_id, 'hash', c.sent_hash, 'conflict', c.conflict);
end
$$;

create function ghl_store_contact(p_customer bigint, p_shadow boolean, p_id text, p_hash text,
                                  p_conflict boolean) returns json language plpgsql as $$
declare
  v_shared boolean;
begin
  select exists (select from ghl_contacts where ghl_id = p_id and shadow = p_shadow
                 and st_customer_id <> p_customer) into v_shared;
  insert into ghl_contacts (st_customer_id, shadow, ghl_id, sent_hash, conflict, synced_at)
  values (p_customer, p_shadow, p_id, p_hash, p_conflict or v_shared, business_now())
  on conflict (st_customer_id, shadow) do update set ghl_id = excluded.ghl_id, owner = null,
    sent_hash = excluded.sent_hash, conflict = excluded.conflict, synced_at = excluded.synced_at;
  return json_build_object('conflict', p_conflict or v_shared);
end
$$;

-- Forgets an id that GHL no longer knows.
create function ghl_forget_contact(p_customer bigint, p_shadow boolean) returns void language sql as $$
  delete from ghl_contacts where st_customer_id = p_customer and shadow = p_shadow
$$;

-- The opportunity of a record: its own row; a job's is that of the estimate it was made from, else
-- one that is about the job itself. p_keys: [["estimate", 7], ["job", 9]] in the order of asking,
-- the first one being what a new opportunity would be about.
create function ghl_find_opportunity(p_keys json, p_shadow boolean, p_owner text) returns json
language sql stable as $$
  select case when o.ghl_id is null then json_build_object('verdict', 'wait') else row_to_json(o) end
  from json_array_elements(p_keys) with ordinality k (key, n)
  join ghl_opportunities o on o.of = k.key->>0 and o.of_id = (k.key->>1)::bigint
    and o.shadow = p_shadow
  where o.ghl_id is not null or (o.owner is distinct from p_owner
    and o.claimed_at > clock_timestamp() - interval '5 minutes')
  order by o.ghl_id is null, k.n limit 1
$$;

create function ghl_claim_opportunity(p_of text, p_id bigint, p_shadow boolean, p_owner text)
returns json language plpgsql as $$
declare
  o ghl_opportunities;
begin
  insert into ghl_opportunities (of, of_id, shadow, owner, claimed_at)
  values (p_of, p_id, p_shadow, p_owner, clock_timestamp()) on conflict do nothing;
  select * into o from ghl_opportunities where of = p_of and of_id = p_id and shadow = p_shadow for update;
  if o.ghl_id is not null then
    return json_build_object('verdict', 'have', 'row', row_to_json(o));
  elsif o.owner is distinct from p_owner and o.claimed_at > clock_timestamp() - interval '5 minutes' then
    return json_build_object('verdict', 'wait');
  end if;
  o.taken_over := o.taken_over or o.owner is distinct from p_owner;
  update ghl_opportunities set owner = p_owner, claimed_at = clock_timestamp(),
    taken_over = o.taken_over
  where of = p_of and of_id = p_id and shadow = p_shadow;
  return json_build_object('verdict', 'mine', 'taken_over', o.taken_over);
end
$$;

-- Changes of one opportunity come one after the other: 'have' with the row as it is now, or 'wait'.
-- Storing it, or giving it back, lets the next one in; so does a minute of silence.
create function ghl_lock_opportunity(p_of text, p_id bigint, p_shadow boolean, p_owner text)
returns json language plpgsql as $$
declare
  o ghl_opportunities;
begin
  select * into o from ghl_opportunities where of = p_of and of_id = p_id and shadow = p_shadow for update;
  if o.owner is not null and o.owner <> p_owner and o.claimed_at > clock_timestamp() - interval '1 minute' then
    return json_build_object('verdict', 'wait');
  end if;
  update ghl_opportunities set owner = p_owner, claimed_at = clock_timestamp()
  where of = p_of and of_id = p_id and shadow = p_shadow;
  return json_build_object('verdict', 'have',
    'row', to_jsonb(o) || jsonb_build_object('moved_at', utc(o.moved_at)));
end
$$;

create function ghl_unlock_opportunity(p_of text, p_id bigint, p_shadow boolean, p_owner text)
returns void language sql as $$
  update ghl_opportunities set owner = null
  where of = p_of and of_id = p_id and shadow = p_shadow and owner = p_owner
$$;

create function ghl_release_opportunity(p_of text, p_id bigint, p_shadow boolean, p_owner text)
returns void language sql as $$
  delete from ghl_opportunities where of = p_of and of_id = p_id and shadow = p_shadow
    and ghl_id is null and owner = p_owner
$$;

-- p: of of_id shadow ghl_id customer_id estimate_id job_id contact_id name pipeline_id pipeline
-- stage_id stage status value moved moved_at conflict; a field left out stays as it is.
create function ghl_store_opportunity(p json) returns void language sql as $$
  insert into ghl_opportunities as o (of, of_id, shadow, ghl_id, st_customer_id, st_estimate_id,
    st_job_id, ghl_contact_id, name, pipeline_id, pipeline, pipeline_stage_id, stage, status,
    monetary_value, moved, moved_at, conflict, synced_at)
  values (p->>'of', (p->>'of_id')::bigint, (p->>'shadow')::boolean, p->>'ghl_id',
    (p->>'customer_id')::bigint, (p->>'estimate_id')::bigint, (p->>'job_id')::bigint,
    p->>'contact_id', p->>'name', p->>'pipeline_id', p->>'pipeline', p->>'stage_id', p->>'stage',
    p->>'status', (p->>'value')::numeric, coalesce((p->>'moved')::boolean, false),
    (p->>'moved_at')::timestamptz, coalesce((p->>'conflict')::boolean, false), business_now())
  on conflict (of, of_id, shadow) do update set owner = null,
    ghl_id = coalesce(excluded.ghl_id, o.ghl_id),
    st_customer_id = coalesce(excluded.st_customer_id, o.st_customer_id),
    st_estimate_id = coalesce(excluded.st_estimate_id, o.st_estimate_id),
    st_job_id = coalesce(excluded.st_job_id, o.st_job_id),
    ghl_contact_id = coalesce(excluded.ghl_contact_id, o.ghl_contact_id),
    name = coalesce(excluded.name, o.name),
    pipeline_id = coalesce(excluded.pipeline_id, o.pipeline_id),
    pipeline = coalesce(excluded.pipeline, o.pipeline),
    pipeline_stage_id = coalesce(excluded.pipeline_stage_id, o.pipeline_stage_id),
    stage = coalesce(excluded.stage, o.stage), status = coalesce(excluded.status, o.status),
    monetary_value = coalesce(excluded.monetary_value, o.monetary_value),
    moved = o.moved or excluded.moved, moved_at = coalesce(excluded.moved_at, o.moved_at),
    conflict = o.conflict or excluded.conflict,
    synced_at = excluded.synced_at
$$;

-- ---- The copy of what GHL has ------------------------------------------------------------------

-- Begins a walk, or goes on with it: 'go' with the cursor and the time from which on what is found
-- is newer than what we have; 'wait' while another step walks; 'done' when it had ended.
create function ghl_walk(p_kind text, p_owner text) returns json language plpgsql as $$
declare
  w ghl_walks;
begin
  insert into ghl_walks (kind, owner, began_at, touched_at)
  values (p_kind, p_owner, business_now(), clock_timestamp()) on conflict do nothing;
  select * into w from ghl_walks where kind = p_kind for update;
  if w.owner = p_owner and w.ended_at is not null then
    return json_build_object('verdict', 'done', 'counts', w.counts);
  elsif w.owner <> p_owner and w.ended_at is null
        and w.touched_at > clock_timestamp() - interval '2 minutes' then
    return json_build_object('verdict', 'wait');
  elsif w.owner <> p_owner then
    update ghl_walks set owner = p_owner, cursor = null, counts = '{}', began_at = business_now(),
      touched_at = clock_timestamp(), ended_at = null
    where kind = p_kind returning * into w;
  end if;
  return json_build_object('verdict', 'go', 'cursor', w.cursor, 'at', utc(business_now()));
end
$$;

-- After a page: its counts are added. Without a next page the walk is over, and what GHL didn't list
-- any more and has no record in ServiceTitan is forgotten.
create function ghl_walk_on(p_kind text, p_owner text, p_cursor json, p_counts json) returns json
language plpgsql as $$
declare
  w ghl_walks;
begin
  update ghl_walks set cursor = p_cursor, touched_at = clock_timestamp(),
    ended_at = case when p_cursor is null then business_now() end,
    counts = (select jsonb_object_agg(key, value::bigint + coalesce((counts->>key)::bigint, 0))
              from json_each_text(p_counts))
  where kind = p_kind and owner = p_owner returning * into w;
  if not found then
    return json_build_object('verdict', 'wait');
  elsif w.ended_at is null then
    return json_build_object('verdict', 'go', 'cursor', w.cursor, 'at', utc(business_now()));
  end if;
  if p_kind = 'contacts' then
    delete from ghl_contacts where st_customer_id is null and seen_at < w.began_at;
  else
    delete from ghl_opportunities where of is null and seen_at < w.began_at;
  end if;
  return json_build_object('verdict', 'done', 'counts', w.counts);
end
$$;

create function ghl_contact_rows(p json)
returns table (id text, phone text, email text, name text, tags json, customer bigint)
language sql immutable as $$
  select * from json_to_recordset(p) r (id text, phone text, email text, name text, tags json,
                                        customer bigint)
$$;

-- One page of contacts, as GHL answered, and whose they are: [{"contact", "customer"}]. What we have
-- linked stays linked; a customer with a second contact has a conflict.
create function ghl_take_contacts(p_page json, p_customers json) returns json language plpgsql as $$
declare
  v_now timestamptz := business_now();
  v_counts json;
  v_page json;
begin
  select coalesce(json_agg(r), '[]') into v_page from (select distinct on (c->>'id') c->>'id' as id, c->>'phone' as phone, lower(c->>'email') as email,
    coalesce(nullif(c->>'contactName', ''), nullif(c->>'name', ''),
             nullif(btrim(concat_ws(' ', c->>'firstName', c->>'lastName')), '')) as name,
    c->'tags' as tags,
    coalesce((select min(k.st_customer_id) from ghl_contacts k where k.ghl_id = c->>'id' and not k.shadow),
             (m->>'customer')::bigint) as customer
  from json_array_elements(p_page->'contacts') c
  left join json_array_elements(p_customers) m on m->>'contact' = c->>'id'
  where c->>'id' is not null) r;

  -- The links we have are refreshed, and a contact that is the second of its customer shows there.
  update ghl_contacts k set name = p.name, phone = p.phone, email = p.email, tags = p.tags,
    seen_at = v_now
  from ghl_contact_rows(v_page) p where k.ghl_id = p.id and not k.shadow;
  update ghl_contacts k set conflict = true
  from ghl_contact_rows(v_page) p where k.st_customer_id = p.customer and not k.shadow and k.ghl_id <> p.id
    and not k.conflict;
  -- One that is being made just now is its maker's.
  with linked as (
    insert into ghl_contacts (st_customer_id, shadow, ghl_id, synced_at, name, phone, email, tags,
                              seen_at, conflict)
    select distinct on (p.customer) p.customer, false, p.id, v_now, p.name, p.phone, p.email, p.tags,
      v_now, (select count(*) > 1 from ghl_contact_rows(v_page) o where o.customer = p.customer)
    from ghl_contact_rows(v_page) p where p.customer is not null order by p.customer, p.id
    on conflict (st_customer_id, shadow) do nothing
    returning ghl_id
  )
  select json_build_object('seen', (select count(*) from ghl_contact_rows(v_page)),
    'matched', (select count(*) from ghl_contact_rows(v_page) where customer is not null),
    'linked', (select count(*) from linked)) into v_counts;
  delete from ghl_contacts k using ghl_contacts o
  where k.st_customer_id is null and o.ghl_id = k.ghl_id and o.st_customer_id is not null
    and not o.shadow and k.ghl_id in (select id from ghl_contact_rows(v_page));
  insert into ghl_contacts (st_customer_id, ghl_id, name, phone, email, tags, synced_at, seen_at)
  select null, p.id, p.name, p.phone, p.email, p.tags, v_now, v_now from ghl_contact_rows(v_page) p
  where not exists (select from ghl_contacts k where k.ghl_id = p.id and not k.shadow);
  return v_counts;
end
$$;

create function ghl_opportunity_rows(p json)
returns table (id text, contact text, name text, pipeline_id text, pipeline text, stage_id text,
               stage text, status text, value numeric, estimate bigint, job bigint, customer bigint)
language sql immutable as $$
  select * from json_to_recordset(p) r (id text, contact text, name text, pipeline_id text,
    pipeline text, stage_id text, stage text, status text, value numeric, estimate bigint, job bigint,
    customer bigint)
$$;

-- One page of opportunities. p_at is before GHL was asked: what we changed since then stays. What
-- somebody moved in GHL is where they want it, so a sync no longer moves it. p_estimate and p_job
-- are the ids of the custom fields that say what an opportunity is about.
create function ghl_take_opportunities(p_page json, p_estimate text, p_job text, p_location text,
                                       p_at timestamptz) returns json language plpgsql as $$
declare
  v_now timestamptz := business_now();
  v_counts json;
  v_page json;
begin
  select coalesce(json_agg(r), '[]') into v_page from (select distinct on (o->>'id') o->>'id' as id, o->>'contactId' as contact, o->>'name' as name,
    o->>'pipelineId' as pipeline_id, l.name as pipeline, o->>'pipelineStageId' as stage_id,
    s->>'name' as stage, o->>'status' as status, (o->>'monetaryValue')::numeric as value,
    f.estimate, f.job,
    (select min(k.st_customer_id) from ghl_contacts k
     where k.ghl_id = o->>'contactId' and not k.shadow) as customer
  from json_array_elements(p_page->'opportunities') o
  left join ghl_pipelines l on l.location_id = p_location and l.id = o->>'pipelineId'
  left join lateral (select s from json_array_elements(l.stages) s
                     where s->>'id' = o->>'pipelineStageId' limit 1) q (s) on true
  cross join lateral (
    select max(v) filter (where id = p_estimate)::bigint as estimate,
           max(v) filter (where id = p_job)::bigint as job
    from (select f->>'id' as id, coalesce(f->>'fieldValue', f->>'fieldValueString', f->>'value') as v
          from json_array_elements(case json_typeof(o->'customFields')
                                   when 'array' then o->'customFields' end) f) x
    where v ~ '^[0-9]{1,18}$') f
  where o->>'id' is not null) r;

  update ghl_opportunities k set seen_at = v_now from ghl_opportunity_rows(v_page) p where k.ghl_id = p.id and not k.shadow;
  update ghl_opportunities k set name = p.name, pipeline_id = p.pipeline_id, pipeline = p.pipeline,
    pipeline_stage_id = p.stage_id, stage = p.stage, status = p.status, monetary_value = p.value,
    ghl_contact_id = p.contact, st_customer_id = coalesce(k.st_customer_id, p.customer),
    moved = k.moved or k.of is not null
      and (k.pipeline_stage_id, k.status) is distinct from (p.stage_id, p.status)
  from ghl_opportunity_rows(v_page) p
  where k.ghl_id = p.id and not k.shadow and k.owner is null and k.synced_at < p_at
    and (k.name, k.pipeline_id, k.pipeline_stage_id, k.status, k.monetary_value, k.ghl_contact_id,
         k.st_customer_id) is distinct from
        (p.name, p.pipeline_id, p.stage_id, p.status, p.value, p.contact,
         coalesce(k.st_customer_id, p.customer));
  update ghl_opportunities k set conflict = true
  from ghl_opportunity_rows(v_page) p
  where not k.shadow and k.ghl_id <> p.id and not k.conflict
    and (k.of = 'estimate' and k.of_id = p.estimate or k.of = 'job' and k.of_id = p.job
         and p.estimate is null);
  with linked as (
    insert into ghl_opportunities (of, of_id, shadow, ghl_id, st_customer_id, st_estimate_id, st_job_id,
      ghl_contact_id, name, pipeline_id, pipeline, pipeline_stage_id, stage, status, monetary_value,
      moved, synced_at, seen_at)
    select distinct on (a.of, a.of_id) a.of, a.of_id, false, p.id, p.customer, p.estimate, p.job,
      p.contact, p.name, p.pipeline_id, p.pipeline, p.stage_id, p.stage, p.status, p.value, true,
      v_now, v_now
    from ghl_opportunity_rows(v_page) p
    cross join lateral (select case when p.estimate is not null then 'estimate' else 'job' end,
                               coalesce(p.estimate, p.job)) a (of, of_id)
    where a.of_id is not null
      and not exists (select from ghl_opportunities k where k.ghl_id = p.id and not k.shadow
                      and k.of is not null)
    order by a.of, a.of_id, p.id
    on conflict (of, of_id, shadow) do nothing
    returning ghl_id
  )
  select json_build_object('seen', (select count(*) from ghl_opportunity_rows(v_page)),
    'matched', (select count(*) from ghl_opportunity_rows(v_page) where customer is not null),
    'linked', (select count(*) from linked)) into v_counts;
  delete from ghl_opportunities k using ghl_opportunities o
  where k.of is null and o.ghl_id = k.ghl_id and o.of is not null and not o.shadow
    and k.ghl_id in (select id from ghl_opportunity_rows(v_page));
  insert into ghl_opportunities (ghl_id, st_customer_id, ghl_contact_id, name, pipeline_id, pipeline,
    pipeline_stage_id, stage, status, monetary_value, synced_at, seen_at)
  select p.id, p.customer, p.contact, p.name, p.pipeline_id, p.pipeline, p.stage_id, p.stage, p.status,
    p.value, v_now, v_now
  from ghl_opportunity_rows(v_page) p
  where not exists (select from ghl_opportunities k where k.ghl_id = p.id and not k.shadow);
  return v_counts;
end
$$;

-- Which of these jobs, [{"id", "estimate"}], have no opportunity in that pipeline yet. One that is
-- lost or abandoned stays where it is.
create function ghl_jobs_outside(p_jobs json, p_pipeline text, p_shadow boolean, p_most int)
returns json language sql stable as $$
  select coalesce(json_agg(json_build_object('id', id, 'estimate', estimate) order by id)
                    filter (where n <= p_most), '[]')
  from (
    select j.id, j.estimate, row_number() over (order by j.id) as n
    from json_to_recordset(p_jobs) j (id bigint, estimate bigint)
    where not exists (
      select from ghl_opportunities o
      where o.shadow = p_shadow and o.ghl_id is not null
        and (o.of = 'job' and o.of_id = j.id or o.of = 'estimate' and o.of_id = j.estimate
             or o.st_job_id = j.id)
        and (lower(o.pipeline) = lower(p_pipeline) or o.pipeline_id = p_pipeline
             or o.status in ('lost', 'abandoned')))) q
$$;
