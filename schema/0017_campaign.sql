-- database: engine
-- Campaigns: which variant somebody got, frozen lists of customers, and a child for each of them.

-- Counted per variant.
create table workflow_variants (
  instance_id uuid not null,
  name text not null,
  variant text not null,
  primary key (instance_id, name)
);

-- An instance gets one variant of a name, the first that was chosen.
create function variant_keep(instance uuid, name text, variant text) returns text
language sql volatile as $$
  with kept as (
    insert into workflow_variants (instance_id, name, variant) values (instance, name, variant)
    on conflict do nothing returning variant)
  select coalesce((select k.variant from kept k),
                  (select v.variant from workflow_variants v
                   where v.instance_id = instance and v.name = variant_keep.name))
$$;

create view variants as
select i.workflow, v.name, v.variant, i.mode, count(*) as instances,
       count(*) filter (where i.finished_at is null) as live,
       count(*) filter (where i.state = 'done') as done,
       count(*) filter (where i.state = 'stopped') as stopped
from workflow_variants v join workflow_instances i on i.id = v.instance_id
group by i.workflow, v.name, v.variant, i.mode;

create table audiences (
  id uuid primary key,
  instance_id uuid not null,
  made_at timestamptz not null
);

create table audience_members (
  audience_id uuid not null,
  customer_id bigint not null,
  primary key (audience_id, customer_id)
);

-- The list is that of the first time; customers that were merged since are their successors.
create function audience_keep(maker uuid, place text, ids json) returns json
language plpgsql volatile as $$
declare
  audience uuid := id_of(place);
begin
  insert into audiences (id, instance_id, made_at) values (audience, maker, business_now())
  on conflict do nothing;
  if found then
    insert into audience_members (audience_id, customer_id)
    select distinct audience, coalesce(a.new_id, x.value::bigint)
    from json_array_elements_text(ids) x
    left join customer_alias a on a.old_id = x.value::bigint
    order by 2;
  end if;
  return json_build_object('id', audience, 'count', (
    select count(*) from audience_members m where m.audience_id = audience));
end $$;

create function audience_members(audience uuid, after bigint, n int) returns json
language sql stable as $$
  select coalesce(json_agg(m.customer_id order by m.customer_id), '[]')
  from (select x.customer_id from audience_members x
        where x.audience_id = audience and x.customer_id > after
        order by x.customer_id limit n) m
$$;

-- A child for each customer, under an id of the step and the customer. {count}, or {refused}.
create function start_children(parent uuid, place text, wanted text, snapshots json) returns json
language plpgsql volatile as $$
declare
  one record;
  answer json;
  n int := 0;
begin
  for one in select s.key, s.value from json_each(snapshots) s order by s.key::bigint loop
    continue when json_typeof(one.value) <> 'object';
    answer := start_child(parent, place || '/customer ' || one.key, wanted, one.value, false);
    if answer->>'refused' is not null then
      return answer;
    end if;
    n := n + 1;
  end loop;
  return json_build_object('count', n);
end $$;

-- How the children of an instance do. Those that detection hasn't begun yet are live.
create function children_of(parent uuid) returns json language sql stable as $$
  with c as (
    select i.id, case when i.finished_at is null then coalesce(q.state, 'pending') else i.state end
             as state, i.customer_id, i.created_at
    from workflow_instances i left join workflow_queue q on q.instance_id = i.id
    where i.parent_id = parent
  ), coming as (
    select count(*) as n from arrivals a
    where a.type = 'start' and a.entity_id = parent::text
      and not exists (select from c where c.id = (a.payload->>'instance')::uuid)
  )
  select json_build_object(
    'total', count(c.id) + (select n from coming),
    'live', count(c.id) filter (where c.state not in ('done', 'stopped', 'failed', 'cancelled',
                                                      'stuck')) + (select n from coming),
    'done', count(c.id) filter (where c.state = 'done'),
    'stopped', count(c.id) filter (where c.state in ('stopped', 'cancelled')),
    'failed', count(c.id) filter (where c.state = 'failed'),
    'stuck', count(c.id) filter (where c.state = 'stuck'),
    'sent', (select count(*) from messaging_log m
             where m.instance_id in (select c.id from c) and m.state = 'sent'),
    'opted_out', count(c.id) filter (where exists (
      select from event_keys k where k.key = 'customer:' || c.customer_id
        and k.type = 'customer_opted_out'
        and exists (select from events e where e.id = k.event_id and e.at >= c.created_at))))
  from c
$$;
