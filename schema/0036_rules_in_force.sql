-- database: engine
-- What came after a version was put in force is judged by that version, whoever detects.

-- Raises MWC01 when the rules that a batch was judged by aren't those in force any more: what was put
-- in force before the batch was read is seen here.
create function rules_in_force(judged_by bigint) returns void language plpgsql stable as $$
begin
  if (select s.stamp from workflow_stamp s) <> judged_by then
    raise exception 'the batch was judged by rules that were replaced' using errcode = 'MWC01';
  end if;
end $$;
