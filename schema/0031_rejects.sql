-- database: servicetitan
-- Rows of ServiceTitan's that were refused once and are stored by now: nobody asks for them again.
-- Real time, a batch at a time. How many went.
create function retain_rejects(days int, n int) returns bigint language sql volatile as $$
  with gone as (
    delete from st_rejects r
    where r.id = any(array(select x.id from st_rejects x
                           where days > 0 and x.resolved_at < now() - days * interval '1 day'
                           order by x.id limit n))
    returning 1)
  select count(*) from gone
$$;
