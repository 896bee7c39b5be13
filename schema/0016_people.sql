-- database: engine
-- What people of ours are asked: to-dos and approvals, and their answers. The first answer counts.

-- Signs the links of approvals.
create table link_secret (
  one boolean primary key default true check (one),
  secret text not null
);
insert into link_secret (secret)
values (replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''));

create function approval_token(task uuid) returns text language sql stable as $$
  select left(encode(sha256(convert_to(s.secret || task || s.secret, 'UTF8')), 'hex'), 32)
  from link_secret s
$$;

-- A to-do or an approval, made once for the step's place. Its row as the step returns it.
create function staff_ask(asker uuid, place text, asked json) returns json
language plpgsql volatile as $$
declare
  task uuid := id_of(place);
begin
  insert into staff_tasks (id, instance_id, step, role, title, note, customer_id, due_at,
                           created_at, shadow, approval, yes, no)
  select task, asker, place, asked->>'to', asked->>'title', asked->>'note', i.customer_id,
         (asked->>'due')::timestamptz, business_now(), i.mode = 'shadow',
         coalesce((asked->>'approval')::boolean, false), asked->>'yes', asked->>'no'
  from workflow_instances i where i.id = asker
  on conflict do nothing;
  return (
    select json_strip_nulls(json_build_object('id', t.id, 'to', t.role, 'title', t.title,
             'note', t.note, 'due', utc(t.due_at), 'time', utc(t.created_at),
             'token', case when t.approval then approval_token(t.id) end))
    from staff_tasks t where t.id = task);
end $$;

create function staff_cancel(task text) returns json language sql volatile as $$
  with gone as (
    update staff_tasks t set cancelled_at = business_now()
    where t.id::text = task and t.done_at is null and t.cancelled_at is null returning 1)
  select json_build_object('cancelled', exists (select from gone))
$$;

-- Whether somebody still waits for the answer of an approval: null, or why not.
create function task_is_over(t staff_tasks) returns text language sql volatile as $$
  select case
    when t.done_at is not null then 'answered already'
      || coalesce(' by ' || t.done_by, '') || ', at ' || utc(t.done_at)
    when t.cancelled_at is not null then 'not asked any more'
    when not t.approval then null
    when t.due_at <= business_now() then 'too late: it was asked until ' || utc(t.due_at)
    when not exists (select from workflow_queue q where q.instance_id = t.instance_id
                       and q.state <> 'stopping' and q.reason->'stopping' is null)
      then 'not asked any more'
  end
$$;

-- A person's answer: {approved, by, text, note}; of a to-do: done. It is an event about the task.
create function answer_task(task uuid, answer json) returns text language plpgsql volatile as $$
declare
  t staff_tasks;
  over text;
  at_ timestamptz := business_now();
begin
  select * into t from staff_tasks x where x.id = task for update;
  if not found then
    return 'unknown';
  end if;
  over := task_is_over(t);
  if over is not null then
    return over;
  end if;
  update staff_tasks x
  set done_at = at_, done_by = coalesce(nullif(btrim(answer->>'by'), ''), t.role),
      approved = case when t.approval then (answer->>'approved')::boolean end,
      answer_text = coalesce(answer->>'text', t.note), answer_note = nullif(answer->>'note', '')
  where x.id = task returning * into t;
  insert into arrivals (type, entity, entity_id, at, payload, dedupe)
  values (case when t.approval then 'task_answered' else 'task_done' end, 'task', t.id::text, at_,
          json_strip_nulls(json_build_object(
            'task', json_build_object('id', t.id, 'to', t.role, 'title', t.title, 'note', t.note),
            'customer', (select e.payload->'customer' from workflow_instances i
                         join events e on e.id = i.event_id where i.id = t.instance_id),
            'data', json_build_object('approved', t.approved, 'by', t.done_by,
                                      'text', t.answer_text, 'note', t.answer_note))),
          'task ' || t.id);
  perform pg_notify('arrivals', '');
  return 'done';
end $$;

-- The same by the beginning of its id, as people name it.
create function answer_named(prefix text, answer json) returns text language plpgsql volatile as $$
declare
  found_ uuid[] := array(select t.id from staff_tasks t where t.id::text like prefix || '%'
                         order by (t.done_at is null and t.cancelled_at is null) desc limit 2);
  result text;
begin
  if cardinality(found_) <> 1 then
    raise exception 'there is no task ''%'', or several begin so', prefix using errcode = 'MWI01';
  end if;
  if (select t.approval from staff_tasks t where t.id = found_[1])
     <> (answer->>'approved' is not null) then
    raise exception 'an approval is answered with yes or no, a to-do with done'
      using errcode = 'MWI01';
  end if;
  result := answer_task(found_[1], answer);
  if result <> 'done' then
    raise exception 'task ''%'': %', prefix, result using errcode = 'MWI01';
  end if;
  return found_[1];
end $$;

-- What a link shows: null when it isn't one of ours.
create function approval_page(task text, token text) returns json language sql volatile as $$
  select json_build_object('id', t.id, 'title', t.title, 'text', coalesce(t.note, ''),
           'yes', coalesce(t.yes, 'Yes'), 'no', coalesce(t.no, 'No'), 'over', task_is_over(t))
  from staff_tasks t
  where t.id::text = task and t.approval and approval_token(t.id) = token
$$;

create function approval_answer(task text, token text, answer json) returns text
language sql volatile as $$
  select coalesce((select answer_task(t.id, answer) from staff_tasks t
                   where t.id::text = task and t.approval and approval_token(t.id) = token),
                  'unknown')
$$;

-- What is open.
create view inbox as
select t.id, case when t.approval then 'approval' else 'to-do' end as kind, t.role, t.title, t.note,
       t.customer_id, t.due_at, t.created_at, t.shadow, i.workflow, t.instance_id
from staff_tasks t left join workflow_instances i on i.id = t.instance_id
where t.done_at is null and t.cancelled_at is null and task_is_over(t) is null;
