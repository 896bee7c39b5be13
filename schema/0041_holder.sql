-- database: engine
-- Who may send for an instance: the worker that holds it. The intents below are message_intent() and
-- call_intent() for a worker; it is asked in their statement, as after fence() nobody else can take the
-- instance before the unit commits.

create function holds(me uuid, instance uuid) returns boolean language plpgsql stable
set enable_seqscan = off as $$
begin
  return exists (select from workflow_queue q where q.instance_id = instance and q.worker = me);
end $$;

-- Without a worker (null) nobody is asked.
create function held_message_intent(p json, me uuid) returns json language plpgsql volatile as $$
begin
  if me is not null and not holds(me, (p->>'instance')::uuid) then
    return '{"verdict": "lost"}';
  end if;
  return message_intent(p);
end $$;

create function held_call_intent(p json, me uuid) returns json language plpgsql volatile as $$
begin
  if me is not null and not holds(me, (p->>'instance')::uuid) then
    return '{"verdict": "lost"}';
  end if;
  return call_intent(p);
end $$;
