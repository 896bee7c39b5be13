-- database: engine
-- Corrections of what lost or repeated something in rare interleavings.

-- As before; the event says when its run began, which is what now() is there at first.
create or replace function continue_instance(instance uuid, e json) returns void
language plpgsql volatile as $$
declare
  event uuid := gen_random_uuid();
  business timestamptz := business_now();
begin
  insert into events (id, type, entity, entity_id, at, noticed_at, settled, customer_id, payload)
  select event, 'continued', 'instance', instance::text, business, business, q.since,
         i.customer_id, (e::jsonb || jsonb_build_object('id', event, 'began', utc(business)))::json
  from workflow_queue q join workflow_instances i on i.id = q.instance_id
  where q.instance_id = instance;
  delete from workflow_waits w where w.instance_id = instance;
  delete from workflow_subscriptions s where s.instance_id = instance and s.kind = 'wait';
  update workflow_queue q set run = q.run + 1, event_id = event where q.instance_id = instance;
end $$;
