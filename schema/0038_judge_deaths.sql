-- database: engine
-- A `when`, `key` or rule that kills the worker that asks it: the third time, what it was asked about
-- is settled without it, so that detection goes on.

-- Which question a worker asks is only watched once one has died of some question: that row's part is
-- 'batch', and it makes watchful for a day.
create table judge_deaths (
  worker uuid primary key,
  part text not null,                    -- when, key, becomes, ...
  name text not null,                    -- the workflow's or the rule's
  about text not null,                   -- what it was asked about
  how text not null,                     -- killed by signal 11 (Segmentation fault), ...
  versions text,                         -- of its files then: others are asked anew
  at timestamptz not null default clock_timestamp()
);

create function judge_versions(part text, whose text) returns text language sql stable as $$
  select string_agg(d.id::text, ' ' order by d.id) from workflow_definitions d
  where d.active and d.name in (whose, 'events') and part <> 'batch'
$$;

create view judge_deaths_that_count as
  select * from judge_deaths d
  where d.versions is not distinct from judge_versions(d.part, d.name)
    and (d.part <> 'batch' or d.at > clock_timestamp() - interval '1 day');

-- The worker `dead` is known to be gone, and what it asked. A second telling of the same death counts
-- nothing.
create function bury_judging(dead uuid, part_ text, whose text, about_ text, how_ text) returns void
language plpgsql volatile as $$
begin
  delete from judge_deaths d where d.worker not in (select c.worker from judge_deaths_that_count c);
  insert into judge_deaths (worker, part, name, about, how, versions)
  values (dead, part_, whose, about_, how_, judge_versions(part_, whose))
  on conflict do nothing;
  perform takeover(dead, null);
end $$;

-- Null: there is nothing to watch. Else what isn't asked, and why: what killed three workers about the
-- same, and what killed six, whatever it is asked about (then without `about`).
create function judged_no_more() returns json language plpgsql stable as $$
begin
  if not exists (select from judge_deaths) then
    return null; -- each batch asks
  end if;
  return (
    with x as (
      select d.part, d.name, d.about, count(*) as n,
             sum(count(*)) over (partition by d.part, d.name) as of_all,
             (array_agg(d.how order by d.at desc))[1] as how
      from judge_deaths_that_count d group by d.part, d.name, d.about
    )
    select case when exists (select from x) then coalesce((
      select json_agg(json_build_object('part', x.part, 'name', x.name,
               'about', case when x.of_all < 6 then x.about end,
               'why', 'killed the worker that asked it '
                 || case when x.of_all < 6 then x.n else x.of_all end || ' times, the last one: ' || x.how
                 || '. It is asked again when its file has changed, or after `moonwright events retry`: '
                 || 'look for a crash or an endless call'))
      from x where (x.n >= 3 or x.of_all >= 6) and x.part <> 'batch'), '[]') end);
end $$;

-- A person's word: what raised is judged again, and what killed its workers may try that again.
create function judge_again(ids bigint[] default null) returns bigint
language plpgsql volatile as $$
begin
  delete from judge_deaths d
  where ids is null or d.name = any(array(select coalesce(e.workflow, e.rule) from detect_errors e
                                          where e.id = any(ids)));
  return retry_detect_errors(ids);
end $$;
