-- database: servicetitan
-- A customer's tags as jsonb: `tags ? 'Waitlist'` asks for one of them.

drop view customers;
create view customers as
select c.id, c.name, c.first_name, c.last_name, c.type, k.phone, k.email,
       address_line(c.street, c.unit) as address, c.city, c.state, c.zip,
       c.zone, dollars(c.balance) as balance, g.tags, c.active,
       c.do_not_service, c.do_not_mail,
       (select max(j.completed_on)::date from st_jobs j
        where j.customer_id = c.id and j.completed_on is not null) as last_job_on,
       c.merged_to_id, c.created_on, c.modified_on
from st_customers c
left join lateral (
  select (array_agg(x.phone order by (x.type = 'MobilePhone') desc, x.do_not_text, x.id)
            filter (where x.phone is not null))[1] as phone,
         (array_agg(x.email order by x.id) filter (where x.email is not null))[1] as email
  from st_contacts x where x.customer_id = c.id and x.active) k on true
left join lateral (select coalesce(jsonb_object_agg(t.name, true), '{}') as tags
                   from st_tag_types t where t.id = any(c.tag_ids)) g on true;
