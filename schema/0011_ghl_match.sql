-- database: servicetitan
-- What the copy of GoHighLevel asks ServiceTitan's tables.

-- Whose contacts these are: [{"contact", "customer"}]. p_page is GHL's answer with its contacts,
-- p_field the id of the custom field with the customer's id. That id counts if there is such a
-- customer, then a phone number and then an e-mail address that exactly one customer has.
create function customers_of_contacts(p_page json, p_field text) returns json language sql stable as $$
  with contact as (
    select c->>'id' as id, phone_e164(c->>'phone') as phone, email_normal(c->>'email') as email,
           (select f->>'value' from json_array_elements(case json_typeof(c->'customFields')
                                                        when 'array' then c->'customFields' end) f
            where f->>'id' = p_field limit 1) as said
    from json_array_elements(p_page->'contacts') c
  ), by_id as (
    select t.id, customer_resolved(s.id) as customer
    from contact t join st_customers s on s.id::text = t.said
  ), by_phone as (
    select t.id, min(customer_resolved(k.customer_id)) as customer
    from contact t join st_contacts k on k.phone = t.phone and k.active
    group by t.id having count(distinct customer_resolved(k.customer_id)) = 1
  ), by_email as (
    select t.id, min(customer_resolved(k.customer_id)) as customer
    from contact t join st_contacts k on k.email = t.email and k.active
    group by t.id having count(distinct customer_resolved(k.customer_id)) = 1
  )
  select coalesce(json_agg(json_build_object('contact', t.id, 'customer', x.customer)), '[]')
  from contact t
  left join by_id using (id) left join by_phone using (id) left join by_email using (id)
  cross join lateral (select coalesce(by_id.customer, by_phone.customer, by_email.customer)) x (customer)
  where x.customer is not null
$$;

-- Jobs of a class that aren't over: [{"id", "estimate"}], oldest first.
create function open_jobs_of_class(p_class text) returns json language sql stable as $$
  select coalesce(json_agg(json_build_object('id', j.id, 'estimate', j.created_from_estimate_id)
                           order by j.id), '[]')
  from st_jobs j join st_job_types t on t.id = j.job_type_id
  where t.class = p_class and j.active and job_status(j.status) not in ('Completed', 'Canceled')
$$;
