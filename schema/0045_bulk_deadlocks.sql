-- database: engine
-- The same for many, each a fact of its own: what can't be done to one says so and holds up none. Two
-- that wait for each other's rows are nobody's fact: then all is undone, to be done again.
create or replace function instances_act(instances uuid[], verb text, expected text default null)
returns setof json
language plpgsql volatile as $$
declare
  one uuid;
begin
  for one in select distinct x from unnest(instances) x order by x loop
    begin
      return next instance_act(one, verb, expected);
    exception
      when deadlock_detected or serialization_failure then
        raise;
      when others then
        return next json_build_object('instance', one, 'done', false, 'says', 'failed: ' || sqlerrm);
    end;
  end loop;
end $$;
