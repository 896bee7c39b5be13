-- database: engine
-- Views on the engine's tables that authors may query.

-- Who is in the middle of something: one row per live instance of a customer.
create view live_sequences as
select i.customer_id, i.workflow, i.id as instance_id, i.mode, q.state, i.entity, i.entity_id,
       i.created_at
from workflow_queue q join workflow_instances i on i.id = q.instance_id
where i.customer_id is not null;
