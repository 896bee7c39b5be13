-- database: engine
-- What GoHighLevel knows under which id, so that nothing is looked up or made twice, and what other
-- vendors and our own people leave here. Shadow rows carry ids that begin with 'shadow:' and are
-- seen by shadow instances only.

create table ghl_contacts (
  st_customer_id bigint not null,
  shadow boolean not null default false,
  ghl_id text,                           -- null: being made by `owner`
  owner text,                            -- instance/run/step
  claimed_at timestamptz,                -- real time
  sent_hash text,                        -- of the body GHL has
  conflict boolean not null default false,
  synced_at timestamptz,                 -- business time
  primary key (st_customer_id, shadow)
);
create index ghl_contacts_id on ghl_contacts (ghl_id);

-- An opportunity by what it is about: 'estimate', 'job', ... and its id. Several rows may have the
-- same GHL id where a location allows one opportunity per contact.
create table ghl_opportunities (
  of text not null,
  of_id bigint not null,
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
  primary key (of, of_id, shadow)
);
create index ghl_opportunities_id on ghl_opportunities (ghl_id);
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
  cancelled_at timestamptz
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
