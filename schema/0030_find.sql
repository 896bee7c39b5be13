-- database: servicetitan
-- Whom people mean: the ids of customers, jobs and estimates by what they are called. Plain patterns:
-- a trigram index on a column serves them where the database has one, and none is needed.

-- q: {customer, phone, address, job, estimate, text}; the answer has, for each that was asked for (for
-- text: for each kind), the ids that fit: {customer: {customers: []}, job: {jobs: []}, ...}.
create function find_ids(q json) returns json language plpgsql stable as $$
declare
  most constant int := 5000;
  result jsonb := '{}';
  k text;
  t text;
  pattern text;
  digits text;
  found_ bigint[];
begin
  foreach k in array '{customer,phone,address,job,estimate}'::text[] loop
    t := coalesce(nullif(q->>k, ''), nullif(q->>'text', ''));
    continue when t is null;
    pattern := '%' || regexp_replace(t, '([\\%_])', '\\\1', 'g') || '%';
    digits := regexp_replace(t, '\D', '', 'g');
    found_ := '{}';
    if k = 'customer' then
      found_ := array(
        select c.id from st_customers c where c.name ilike pattern
        union select c.id from st_customers c where t ~ '^\d{1,18}$' and c.id = case when t ~ '^\d{1,18}$' then t::bigint end
        union select x.customer_id from st_contacts x where x.email ilike pattern
        limit most);
    elsif k = 'phone' and length(digits) >= 3 then
      found_ := array(select distinct x.customer_id from st_contacts x
                      where x.phone like '%' || digits || '%' limit most);
    elsif k = 'address' then
      found_ := array(
        select c.id from st_customers c
        where concat_ws(' ', c.street, c.unit, c.city, c.state, c.zip) ilike pattern
        union select l.customer_id from st_locations l
        where concat_ws(' ', l.street, l.unit, l.city, l.state, l.zip) ilike pattern
        limit most);
    elsif k = 'job' then
      found_ := array(select j.id from st_jobs j where j.number ilike pattern
                      order by j.id desc limit most);
    elsif k = 'estimate' then
      found_ := array(select e.id from st_estimates e
                      where e.name ilike pattern or e.id::text like pattern
                      order by e.id desc limit most);
    end if;
    result := result || jsonb_build_object(k, jsonb_build_object(
      case k when 'job' then 'jobs' when 'estimate' then 'estimates' else 'customers' end,
      to_jsonb(found_)));
  end loop;
  return result;
end $$;
