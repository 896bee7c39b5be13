-- database: engine
-- Versions: what is in force, which folders it came from, what was refused.
--
-- A tree is the workflows folder of one machine. Several trees may share a database; for each name
-- the last save wins: a daemon puts in force only what changed in its own tree since that tree was
-- last looked at (across restarts too), so that an old copy elsewhere takes nothing back.

create table workflow_trees (
  tree text primary key,                   -- machine and folder
  offered json not null default '{}',      -- name -> hash of the sources it last put in force
  settled boolean not null default false,  -- what it lacks was decided on
  first_seen timestamptz not null default now(),
  looked_at timestamptz not null default now()
);

create table workflow_tree_workers (
  worker uuid primary key,
  tree text not null
);

-- Files that are refused as they are now; what was in force of them goes on.
create table workflow_refusals (
  tree text not null,
  file text not null,                      -- workflows/followup.lua
  line int not null default 0,             -- 0: the file as a whole
  message text not null,                   -- followup.lua:4: unknown event ...
  since timestamptz not null default now(),
  primary key (tree, file)
);

-- Counts what was put in force or out of it; locked by whoever does so.
create table workflow_stamp (
  one boolean primary key default true check (one),
  stamp bigint not null default 0
);
insert into workflow_stamp default values;

alter table workflow_definitions add column trusted text not null default '';

create function versions_lock() returns bigint language sql volatile as $$
  select stamp from workflow_stamp for update
$$;

create function versions_changed() returns bigint language sql volatile as $$
  update workflow_stamp set stamp = stamp + 1 returning stamp
$$;

-- Definitions that have instances alive. One look at the whole queue: for people and for changes of
-- files, not for the hot path.
create function versions_alive() returns table (definition int, alive bigint)
language sql stable as $$
  select q.workflow_definition_id, count(*) from workflow_queue q group by 1
$$;

-- What a look needs to know: what is in force, what this tree offered, and which calls of the
-- company's own actions the versions in use make.
create function versions_read(of_tree text) returns json language sql stable as $$
  select json_build_object(
    'stamp', (select s.stamp from workflow_stamp s),
    'offered', coalesce((select t.offered from workflow_trees t where t.tree = of_tree), '{}'),
    'active', coalesce((
      select json_object_agg(d.name, json_build_object('id', d.id, 'version', d.version,
               'sha256', d.sha256, 'trusted', d.trusted, 'files', d.files))
      from workflow_definitions d where d.active), '{}'),
    'used', coalesce((
      select json_agg(json_build_object('name', d.name, 'version', d.version, 'api', d.api,
               'calls', d.declaration->'calls', 'alive', a.alive) order by d.id)
      from workflow_definitions d left join versions_alive() a on a.definition = d.id
      where d.declaration->>'kind' = 'workflow' and (d.active or a.alive > 0)), '[]'))
$$;

-- Makes a version the active one of its name: the one with this content if it was ever there, else a
-- new one. True when that changed something.
create function put_in_force(n text, sha text, sources json, declared json, api_level int,
                             trusted_hash text default '') returns boolean
language plpgsql volatile as $$
declare
  d record;
begin
  insert into workflow_definitions (name, version, sha256, files, declaration, api, trusted)
  select n, coalesce(max(o.version), 0) + 1, sha, sources, declared, api_level, trusted_hash
  from workflow_definitions o where o.name = n
  on conflict (name, sha256) do nothing;
  select w.id, w.active into d from workflow_definitions w where w.name = n and w.sha256 = sha
  for update;
  if d.active then
    return false;
  end if;
  update workflow_definitions w set active = false where w.name = n and w.active;
  update workflow_definitions w set active = true, activated_at = clock_timestamp(),
         declaration = declared
  where w.id = d.id;
  return true;
end $$;

-- What a tree that is new lacks goes out of force, unless a daemon with another tree is alive: then
-- it may be that one's, or may go with that one in a deployment that is under way. It is decided
-- when the other has ended; after ten minutes both simply live on. Null: not decided yet.
create function strangers_out(of_tree text, me uuid, strangers json) returns bigint
language plpgsql volatile as $$
declare
  t record;
  n bigint := 0;
begin
  select w.settled, w.first_seen into t from workflow_trees w where w.tree = of_tree;
  if t.settled then
    return 0;
  end if;
  if exists (select from workflow_tree_workers o join workflow_workers w on w.id = o.worker
             where o.tree <> of_tree and o.worker is distinct from me
               and w.until > clock_timestamp()) then
    if t.first_seen > clock_timestamp() - interval '10 minutes' then
      return null;
    end if;
  else
    update workflow_definitions w set active = false
    where w.active and w.name in (select s.value from json_array_elements_text(strangers) s);
    get diagnostics n = row_count;
  end if;
  update workflow_trees w set settled = true where w.tree = of_tree;
  return n;
end $$;

-- The end of a look, after versions_lock. look: {put: [{name, sha256, files, declaration, api,
-- trusted}], have: {name: hash of sources}, gone: [names whose file was deleted], strangers: [names
-- in force without a file here], refused: [{file, line, message}]}. Raises MWC01 when something was
-- put in force since `seen` was read: the caller looks again.
create function versions_put(of_tree text, me uuid, seen bigint, look json) returns json
language plpgsql volatile as $$
declare
  new_stamp bigint;
  put json;
  out_ bigint;
  strange bigint;
  pending boolean;
begin
  select s.stamp into new_stamp from workflow_stamp s;
  if new_stamp <> seen then
    raise exception 'something else was put in force at the same time' using errcode = 'MWC01';
  end if;
  insert into workflow_trees as t (tree) values (of_tree)
  on conflict (tree) do update set looked_at = clock_timestamp();
  if me is not null then
    insert into workflow_tree_workers as w (worker, tree) values (me, of_tree)
    on conflict (worker) do update set tree = excluded.tree where w.tree <> excluded.tree;
    delete from workflow_tree_workers w
    where not exists (select from workflow_workers x where x.id = w.worker);
  end if;

  with p as materialized (
    select x.name, x.sha256, put_in_force(x.name, x.sha256, x.files, x.declaration, x.api,
                                          x.trusted) as changed
    from json_to_recordset(look->'put') as x (name text, sha256 text, files json,
                                              declaration json, api int, trusted text))
  select coalesce(json_agg(p.name order by p.name) filter (where p.changed), '[]') into put from p;

  update workflow_definitions w set active = false
  where w.active and w.name in (select g.value from json_array_elements_text(look->'gone') g);
  get diagnostics out_ = row_count;
  strange := strangers_out(of_tree, me, look->'strangers');
  pending := strange is null;
  update workflow_trees t
  set offered = (coalesce((select jsonb_object_agg(o.key, o.value)
                           from json_each_text(t.offered) o
                           where o.key not in (select g.value from
                                               json_array_elements_text(look->'gone') g)), '{}')
                 || (look->'have')::jsonb)::json
  where t.tree = of_tree;

  delete from workflow_refusals r
  where (r.tree = of_tree and r.file not in (
           select x.file from json_to_recordset(look->'refused') as x (file text)))
     or r.tree in (select t.tree from workflow_trees t
                   where t.looked_at < clock_timestamp() - interval '1 day'
                     and t.tree <> of_tree
                     and not exists (select from workflow_tree_workers w where w.tree = t.tree));
  insert into workflow_refusals as r (tree, file, line, message)
  select distinct on (x.file) of_tree, x.file, coalesce(x.line, 0), x.message
  from json_to_recordset(look->'refused') as x (file text, line int, message text)
  order by x.file, x.line
  on conflict (tree, file) do update
  set line = excluded.line, message = excluded.message, since = clock_timestamp()
  where (r.line, r.message) is distinct from (excluded.line, excluded.message);

  if json_array_length(put) > 0 or out_ > 0 or coalesce(strange, 0) > 0 then
    new_stamp := versions_changed();
    perform retry_detect_errors();
  end if;
  return json_build_object('stamp', new_stamp, 'put', put, 'pending', pending,
    'ids', (select coalesce(json_object_agg(d.name, d.id), '{}')
            from workflow_definitions d where d.active));
end $$;

-- For /healthz and people: what is refused now.
create function refusals() returns json language sql stable as $$
  select coalesce(json_agg(json_build_object('file', r.file, 'line', r.line, 'message', r.message,
           'tree', r.tree, 'since', utc(r.since)) order by r.file, r.tree), '[]')
  from workflow_refusals r
$$;

-- A person's word: this version is the active one from now on, until a file changes.
create function activate_version(definition int) returns boolean language plpgsql volatile as $$
declare
  d record;
begin
  perform versions_lock();
  select w.name, w.active into d from workflow_definitions w where w.id = definition;
  if not found or d.active then
    return false;
  end if;
  update workflow_definitions w set active = false where w.name = d.name and w.active;
  update workflow_definitions w set active = true, activated_at = clock_timestamp()
  where w.id = definition;
  perform versions_changed();
  return true;
end $$;

-- Moves instances to another version: those that nobody holds and that were not claimed since they
-- were checked. list: [{instance, epoch, stops: [{type, key, judged}] or null: as they were}].
-- Returns those that were moved.
create function migrate_instances(target int, list json) returns setof uuid
language plpgsql volatile as $$
declare
  m record;
  base bigint;
begin
  for m in
    select x.instance, x.epoch, x.stops
    from json_to_recordset(list) as x (instance uuid, epoch int, stops json)
    order by x.instance
  loop
    update workflow_queue q set workflow_definition_id = target
    where q.instance_id = m.instance and q.worker is null and q.epoch = m.epoch
      and exists (select from workflow_definitions d join workflow_instances i on i.workflow = d.name
                  where d.id = target and i.id = m.instance)
    returning q.since into base;
    continue when not found;
    update workflow_instances i set workflow_definition_id = target where i.id = m.instance;
    if m.stops is not null then
      delete from workflow_subscriptions s where s.instance_id = m.instance and s.kind = 'stop';
      insert into workflow_subscriptions (instance_id, kind, type, key, since, judged)
      select m.instance, 'stop', w.type, key_today(w.key), base, bool_or(w.judged)
      from json_to_recordset(m.stops) as w (type text, key text, judged boolean)
      group by w.type, key_today(w.key);
      update workflow_queue q set watched = json_array_length(m.stops) > 0,
             due = case when q.due is not null and stop_pending(m.instance)
                        then clock_timestamp() else q.due end
      where q.instance_id = m.instance;
    end if;
    return next m.instance;
  end loop;
end $$;
