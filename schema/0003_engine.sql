-- database: engine
-- The engine's own tables. No foreign keys (they cost more than everything they would catch here);
-- no schema is named: the role's search_path says which company this is. Columns that only the
-- engine reads and returns are json, kept as written.

-- One row: business time = business_origin + (real time - real_origin) * scale.
create table clock (
  one boolean primary key default true check (one),
  real_origin timestamptz not null,
  business_origin timestamptz not null,
  scale double precision not null check (scale > 0)
);

create function business_of(wall timestamptz) returns timestamptz language sql stable as $$
  select business_origin + (wall - real_origin) * scale from clock
$$;

create function real_of(business timestamptz) returns timestamptz language sql stable as $$
  select case when business = 'infinity' then business
              else real_origin + (business - business_origin) / scale end from clock
$$;

-- The business clock's reading now; by the wall, not by the transaction's start.
create function business_now() returns timestamptz language sql volatile as $$
  select business_of(clock_timestamp())
$$;

-- How times look to scripts and in JSON: "2026-03-07T22:00:00Z".
create function utc(at timestamptz) returns text language sql immutable as $$
  select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS"Z"')
$$;

-- Switches that belong to the company, not to a process: live (on/off), caps, delays.
create table settings (
  name text primary key,
  value text not null,
  changed_at timestamptz not null default now()
);

-- The gate: whoever settles events, or registers a wait for one, locks this row first, in a
-- statement of its own; what must see the latest commit is a later statement.
create table gate (
  one boolean primary key default true check (one),
  settled bigint not null default 0      -- the number of the newest settled event
);
insert into gate default values;

-- A process life that may hold work. Ids are never used again; takeover deletes the row.
create table workflow_workers (
  id uuid primary key,
  machine text not null,
  pid int not null,
  born bigint not null default 0,        -- the process' start in the machine's clock ticks
  role text not null,
  beat bigint not null default 0,
  until timestamptz not null,
  started_at timestamptz not null default now()
) with (fillfactor = 50);

-- A workflow file as it was when it was put in force, with every module it requires.
create table workflow_definitions (
  id int generated always as identity primary key,
  name text not null,
  version int not null,
  sha256 text not null,
  files json not null,                   -- {"workflows/x.lua": "source", ...}
  declaration json not null,             -- on, stop_when, class, if_running, ... as data
  api int not null default 1,
  active boolean not null default false,
  activated_at timestamptz,
  created_at timestamptz not null default now(),
  unique (name, version),
  unique (name, sha256)
);
create unique index workflow_definitions_active on workflow_definitions (name) where active;

create table events (
  id uuid primary key,
  type text not null,
  entity text not null,
  entity_id text not null,
  at timestamptz not null,               -- the vendor's time of the fact, in business time
  noticed_at timestamptz not null,       -- business time
  settled bigint not null,               -- in commit order
  customer_id bigint,
  payload json not null,                 -- what Lua sees as e
  unique (type, entity, entity_id, at)
);
create index events_settled on events (settled);
create index events_customer on events (customer_id, settled);
create index events_entity on events (entity, entity_id);

-- What an event is about, for stops and waits: 'estimate:7', 'job:3', 'customer:9',
-- 'phone:+15550100', 'email:ann@example.com'.
create table event_keys (
  key text not null,
  type text not null,
  settled bigint not null,
  event_id uuid not null,
  primary key (key, type, settled, event_id)
);

-- Facts that come from outside the st_ tables: webhooks, replies, signals, people, emit. Detection
-- consumes them as it consumes changes. dedupe keeps a redelivery from arriving twice.
create table arrivals (
  id bigint generated always as identity primary key,
  type text not null,
  entity text not null,
  entity_id text not null,
  at timestamptz not null,               -- business time
  payload json not null,                 -- the event's snapshots and data, as far as known
  dedupe text unique,
  arrived_at timestamptz not null default now()
);

create table workflow_instances (
  id uuid primary key,
  workflow_definition_id int not null,
  workflow text not null,
  mode text not null default 'live' check (mode in ('live', 'shadow')),
  state text not null default 'pending', -- written at start and end; while it lives see the queue
  event_id uuid,
  customer_id bigint,
  entity text,
  entity_id text,
  business_key text,
  created_at timestamptz not null,       -- business time
  finished_at timestamptz,
  outcome text,
  reason text,                           -- why it was stopped, failed, cancelled
  error text,
  parent_id uuid,                        -- whose child it is
  detached boolean,                      -- its parent's stop isn't its own
  value json                             -- what a child returned
) with (fillfactor = 50);
create index workflow_instances_parent on workflow_instances (parent_id)
  where parent_id is not null;
create index workflow_instances_customer on workflow_instances (customer_id, created_at);
create index workflow_instances_created on workflow_instances (created_at);
create index workflow_instances_event on workflow_instances (event_id);

-- A row while the instance lives. due is real time; null: stuck, paused or without a slot.
create table workflow_queue (
  instance_id uuid primary key,
  workflow_definition_id int not null,
  event_id uuid,
  priority smallint not null default 2,
  due timestamptz,
  worker uuid,                           -- who holds it
  epoch int not null default 0,          -- claims so far: 1 has nothing to replay
  deaths smallint not null default 0,    -- workers that died while its Lua was running
  run smallint not null default 1,
  state text not null default 'pending',
  reason json,                           -- {"code", "message", "since", "can": [...]} when stuck
  since bigint not null default 0,       -- the settled number of its trigger
  watched boolean not null default false,-- it has stop subscriptions
  business_key text,
  queued_key text,                       -- it waits behind the instance that holds this key
  parent_id uuid                         -- to be told of its end
) with (fillfactor = 70, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 20000,
        autovacuum_analyze_scale_factor = 0, autovacuum_analyze_threshold = 20000);
create index workflow_queue_claim on workflow_queue (priority, due) where worker is null;
create unique index workflow_queue_key on workflow_queue (business_key);
create index workflow_queue_queued on workflow_queue (queued_key, since)
  where queued_key is not null;
create index workflow_queue_parent on workflow_queue (parent_id) where parent_id is not null;

-- Insert only: one row per finished step.
create table workflow_step_executions (
  workflow_instance_id uuid not null,
  run smallint not null,
  seq int not null,                      -- the order in which completions reach the body
  branch text not null,                  -- '' is the body itself
  ordinal int not null,
  attempt smallint not null default 1,
  state text not null,                   -- done, failed
  name text not null,
  args_hash text not null,
  input json,
  output json,                           -- the result, or the error when failed
  at timestamptz not null,               -- business time; what now() returns afterwards
  started_at timestamptz not null,
  finished_at timestamptz not null,
  primary key (workflow_instance_id, run, seq)
);

-- What an instance waits for: a sleep, an event, a retry. deadline is business time.
create table workflow_waits (
  instance_id uuid not null,
  run smallint not null,
  branch text not null,
  ordinal int not null,
  kind text not null,                    -- sleep, event, child
  since bigint not null,                 -- events settled after this number count
  judged boolean not null default false, -- Lua has the last word on a candidate
  deadline timestamptz,                  -- null: none
  registered_at timestamptz not null,    -- business time
  primary key (instance_id, run, branch, ordinal)
);

-- Which events an instance wants: kind 'stop' for as long as it lives, 'wait' while it waits.
create table workflow_subscriptions (
  instance_id uuid not null,
  kind text not null check (kind in ('stop', 'wait')),
  branch text not null default '',
  ordinal int not null default 0,
  type text not null,
  key text not null,
  since bigint not null,
  judged boolean not null default false,
  primary key (instance_id, kind, branch, ordinal, type, key)
);
create index workflow_subscriptions_match on workflow_subscriptions (key, type);

-- What detection tells a live instance, and what the instance made of it.
create table workflow_inbox (
  instance_id uuid not null,
  event_id uuid not null,
  kind text not null,                    -- stop, wait; asked of a held one: cancelled, replaced,
                                         -- deleted, merged, paused, resume
  settled bigint not null,
  verdict text,                          -- null: not looked at; 'not ours', 'consumed', 'seen'
  primary key (instance_id, event_id, kind)
);

-- Starts that did not happen, or not as asked, and why.
create table workflow_skips (
  id bigint generated always as identity primary key,
  workflow text not null,
  event_id uuid not null,
  reason text not null,                  -- key taken, already stopped, replaced, ...
  detail json,
  at timestamptz not null,
  unique (workflow, event_id, reason)
);

-- A line in an instance's timeline written by note().
create table workflow_notes (
  instance_id uuid not null,
  run smallint not null,
  branch text not null,
  ordinal int not null,
  text text not null,
  at timestamptz not null,
  primary key (instance_id, run, branch, ordinal)
);

-- A rule or a `when` that raised, with what it was looking at; judged again when the file changes.
create table detect_errors (
  id bigint generated always as identity primary key,
  rule text,                             -- an event rule, or
  workflow text,                         -- a workflow's when or key
  entity text,
  entity_id text,
  event_id uuid,
  change json,                           -- the change as detection read it
  message text not null,                 -- with file and line
  at timestamptz not null default now(),
  again boolean not null default false,  -- to be judged again
  resolved_at timestamptz
);
create index detect_errors_open on detect_errors (id) where resolved_at is null;

create table system_alerts (
  id bigint generated always as identity primary key,
  kind text not null,
  subject text not null,
  severity text not null default 'warning',
  message text not null,
  first_at timestamptz not null default now(),
  last_at timestamptz not null default now(),
  count int not null default 1,
  resolved_at timestamptz
);
create unique index system_alerts_open on system_alerts (kind, subject) where resolved_at is null;

-- The live state, for people: the queue's word while an instance lives, its own afterwards.
create view instances as
select i.id, i.workflow, i.mode, coalesce(q.state, i.state) as state, i.customer_id, i.entity,
       i.entity_id, i.business_key, i.created_at, i.finished_at, i.outcome, i.reason, i.error,
       q.due, q.worker, q.epoch, q.run,
       case when q.state = 'waiting' and q.reason is null then (
         select json_build_object('code', 'child_stuck', 'message', c.workflow || ' ' || c.id
                  || ' is stuck: ' || (x.reason->>'message'), 'instance', c.id, 'can',
                  json_build_array('cancel'))
         from workflow_queue x join workflow_instances c on c.id = x.instance_id
         where x.parent_id = i.id and x.state = 'stuck' order by c.id limit 1)
       else q.reason end as stuck, i.event_id, i.workflow_definition_id, i.parent_id
from workflow_instances i left join workflow_queue q on q.instance_id = i.id;
