-- database: servicetitan
-- What each copied row costs. Functions that a row calls are plpgsql, whose expressions are prepared
-- once in a transaction: an SQL function with a FROM starts the executor for each call, which for a
-- customer cost five times the whole rest of the statement. Each takes the plain case without regular
-- expressions.

-- "+15125550100", or null where that isn't certain. Extensions are cut off.
create or replace function phone_e164(phone text) returns text language plpgsql immutable as $$
declare
  main text := btrim(phone);
  digits text := translate(main, '0123456789 ().-+', '0123456789');
  plus boolean;
begin
  if digits <> '' and translate(digits, '0123456789', '') <> '' then -- there are letters in it
    main := btrim(regexp_replace(phone, '\s*(x|ext\.?|extension|#)\s*[0-9]+\s*$', '', 'i'));
    digits := regexp_replace(main, '[^0-9]', '', 'g');
  end if;
  plus := left(main, 1) = '+';
  return case
           when plus and length(digits) between 7 and 15 then '+' || digits
           when not plus and length(digits) = 10 then '+1' || digits
           when not plus and length(digits) = 11 and left(digits, 1) = '1' then '+' || digits
         end;
end $$;

create or replace function email_normal(email text) returns text language plpgsql immutable as $$
declare
  address text := lower(btrim(email));
begin
  return case when address ~ '^[^@\s<>,;]+@[^@\s<>,;]+\.[^@\s<>,;]+$' then address end;
end $$;

-- The time zone of an address in the United States; null where it isn't known. States that lie in
-- two zones are split by the first three digits of the ZIP code.
create or replace function customer_zone(state text, zip text) returns text
language plpgsql immutable as $$
declare
  s text := upper(btrim(state));
  z text := left(btrim(zip), 5);
begin
  z := case when length(z) = 5 and translate(z, '0123456789', '') = '' then left(z, 3) end;
  return case
    when s in ('CT','DE','DC','GA','ME','MD','MA','NH','NJ','NY','NC','OH','PA','RI','SC','VT','VA',
               'WV') then 'America/New_York'
    when s in ('AL','AR','IL','IA','LA','MN','MS','MO','OK','WI') then 'America/Chicago'
    when s in ('CO','MT','NM','UT','WY') then 'America/Denver'
    when s in ('CA','NV','WA') then 'America/Los_Angeles'
    when s = 'FL' then case when z in ('324', '325') then 'America/Chicago'
                            when z is not null then 'America/New_York' end
    when s = 'MI' then case when z in ('498', '499') then null
                            when z is not null then 'America/Detroit' end
    when s = 'IN' then case when z in ('463', '464', '476', '477') then 'America/Chicago'
                            when z is not null then 'America/Indiana/Indianapolis' end
    when s = 'KY' then case when z in ('420','421','422','423','424','427') then 'America/Chicago'
                            when z is not null then 'America/New_York' end
    when s = 'TN' then case when z in ('373','374','376','377','378','379') then 'America/New_York'
                            when z is not null then 'America/Chicago' end
    when s = 'TX' then case when z in ('798', '799', '885') then 'America/Denver'
                            when z is not null then 'America/Chicago' end
    when s = 'KS' then case when z in ('677', '678') then null
                            when z is not null then 'America/Chicago' end
    when s = 'NE' then case when z in ('691', '693') then 'America/Denver'
                            when z is not null then 'America/Chicago' end
    when s = 'ND' then case when z in ('586', '588') then null
                            when z is not null then 'America/Chicago' end
    when s = 'SD' then case when z = '577' then 'America/Denver'
                            when z in ('575', '576') then null
                            when z is not null then 'America/Chicago' end
    when s = 'AZ' then case when z = '865' then null when z is not null then 'America/Phoenix' end
    when s = 'ID' then case when z in ('835', '838') then 'America/Los_Angeles'
                            when z is not null then 'America/Boise' end
    when s = 'OR' then case when z = '979' then null
                            when z is not null then 'America/Los_Angeles' end
    when s = 'AK' then 'America/Anchorage'
    when s = 'HI' then 'Pacific/Honolulu'
    when s = 'PR' then 'America/Puerto_Rico'
  end;
end $$;

-- First and last name of a private person: from "Ann Lee", "Ann B. Lee" or "Lee, Ann", else null.
-- Two people, titles and firms are never guessed at.
create or replace function person_name(name text, type text) returns text[]
language plpgsql immutable as $$
declare
  n text;
  words text[];
begin
  if type is distinct from 'Residential' then
    return null;
  end if;
  -- "Ann Lee" in plain letters: all else is looked at more closely.
  if name ~ '^[A-Za-z]{2,} [A-Za-z]{2,}$' then
    words := string_to_array(name, ' ');
    return case when lower(words[1]) in ('and', 'llc', 'inc', 'corp', 'co', 'trust', 'estate', 'family',
                                         'the', 'mr', 'mrs', 'ms', 'dr', 'llp', 'hoa')
                  or lower(words[2]) in ('and', 'llc', 'inc', 'corp', 'co', 'trust', 'estate', 'family',
                                         'the', 'mr', 'mrs', 'ms', 'dr', 'llp', 'hoa') then null
                else words end;
  end if;
  n := btrim(regexp_replace(name, '\s+', ' ', 'g'));
  return case
    when n ~* '(&|\yand\y|\yllc\y|\yinc\y|\ycorp\y|\yco\y|\ytrust\y|\yestate\y|\yfamily\y|\ythe\y|\ymr\y|\ymrs\y|\yms\y|\ydr\y|\yllp\y|\yhoa\y|[0-9/()@])'
      then null
    when n ~ '^[[:alpha:]][[:alpha:]''’-]+ ([[:alpha:]]\.? )?[[:alpha:]][[:alpha:]''’-]+$'
      then array[regexp_replace(n, ' .*$', ''), regexp_replace(n, '^.* ', '')]
    when n ~ '^[[:alpha:]][[:alpha:]''’-]+, ?[[:alpha:]][[:alpha:]''’-]+( [[:alpha:]]\.?)?$'
      then array[regexp_replace(regexp_replace(n, '^[^,]*, ?', ''), ' .*$', ''),
                 regexp_replace(n, ',.*$', '')]
  end;
end $$;

-- ServiceTitan's job status is free text: "In Progress", "inprogress" and "InProgress" are one.
create or replace function job_status(status text) returns text language plpgsql immutable as $$
begin
  if status in ('Scheduled', 'Dispatched', 'InProgress', 'Hold', 'Completed', 'Canceled') then
    return status;
  end if;
  return case lower(regexp_replace(status, '[^[:alpha:]]', '', 'g'))
           when 'scheduled' then 'Scheduled' when 'dispatched' then 'Dispatched'
           when 'inprogress' then 'InProgress' when 'working' then 'InProgress'
           when 'hold' then 'Hold' when 'onhold' then 'Hold'
           when 'completed' then 'Completed' when 'done' then 'Completed'
           when 'canceled' then 'Canceled' when 'cancelled' then 'Canceled'
           else btrim(status) end;
end $$;

-- ------------------------------------------------------------------------------ capture
-- What is older than its entity's first import starts nothing, unless a workflow listens to history:
-- such changes are not even written down. Detection says with each reading whether they are wanted;
-- until it has said so for the first time they are.
create table history_wanted (
  one boolean primary key default true check (one),
  wanted boolean not null default true
);
insert into history_wanted default values;

-- Changes of the entity that are older than this are of no interest; null: all are of interest.
create function capture_since(entity text) returns timestamptz language sql stable as $$
  select c.live_since from sync_cursors c, history_wanted h
  where c.entity = feed_of($1) and not h.wanted
$$;

create or replace function capture_inserted() returns trigger language plpgsql as $$
declare
  since timestamptz := capture_since(tg_argv[0]);
begin
  insert into changes (entity, entity_id, new, modified_on)
  select tg_argv[0], n.id::text, to_json(n), n.modified_on from inserted n
  where (n.modified_on < since) is not true order by n.id;
  if found then
    perform pg_notify('changes', '');
  end if;
  return null;
end $$;

-- A writer that leaves modified_on as it was isn't the vendor: its change has no vendor's time.
create or replace function capture_updated() returns trigger language plpgsql as $$
declare
  since timestamptz := capture_since(tg_argv[0]);
begin
  insert into changes (entity, entity_id, old, new, modified_on)
  select tg_argv[0], coalesce(n.id, o.id)::text,
         case when o.id is not null then to_json(o) end,
         case when n.id is not null then to_json(n) end,
         case when n.modified_on is distinct from o.modified_on then n.modified_on end
  from before o full join after n on n.id = o.id
  where (n.modified_on < since and n.modified_on is distinct from o.modified_on) is not true
    and to_jsonb(o) - 'synced_at' - 'modified_on' is distinct from
        to_jsonb(n) - 'synced_at' - 'modified_on'
  order by coalesce(n.id, o.id);
  if found then
    perform pg_notify('changes', '');
  end if;
  return null;
end $$;

create or replace function capture_contacts_inserted() returns trigger language plpgsql as $$
declare
  since timestamptz := capture_since('customer');
begin
  perform contacts_touched(array_agg(distinct n.customer_id), max(n.modified_on))
  from inserted n where (n.modified_on < since) is not true having count(*) > 0;
  return null;
end $$;

create or replace function capture_contacts_updated() returns trigger language plpgsql as $$
declare
  since timestamptz := capture_since('customer');
begin
  perform contacts_touched(array_agg(distinct x.customer_id), max(x.modified_on))
  from (select unnest(array[o.customer_id, n.customer_id]) as customer_id,
               case when n.modified_on is distinct from o.modified_on then n.modified_on
                    else 'infinity' end as modified_on
        from before o full join after n on n.id = o.id
        where to_jsonb(o) - 'synced_at' - 'modified_on' is distinct from
              to_jsonb(n) - 'synced_at' - 'modified_on') x
  where x.customer_id is not null and (x.modified_on < since) is not true having count(*) > 0;
  return null;
end $$;

-- The next changes, oldest first, with everything detection needs to judge them. Those that are
-- older than the entity's live_since are history: they are dropped here, unless history is true.
-- A row with a change that waits for its parents keeps its later changes waiting too.
drop function read_changes(int, boolean);
create function read_changes(max int, history boolean default false)
returns table (seq bigint, entity text, entity_id text, old json, new json, snapshot json,
               missing text[], modified_on timestamptz, live_since timestamptz, age interval,
               waiting boolean, noticed_at timestamptz)
language plpgsql as $$
declare
  dropped bigint;
begin
  update history_wanted h set wanted = history where h.wanted <> history;
  if not history then
    loop
      delete from changes c
      where c.seq = any(array(
        select h.seq
        from (select x.seq, x.entity, x.modified_on from changes x order by x.seq limit max) h
        join sync_cursors l on l.entity = feed_of(h.entity)
        where h.modified_on < l.live_since));
      get diagnostics dropped = row_count;
      exit when dropped <= max / 2;
    end loop;
  end if;
  -- What else belongs to a change goes in arrays beside it: a join of the batch with its snapshots
  -- could be planned so that they are made anew for each of its rows.
  return query
    with due as materialized (
      select c.* from changes c
      where (c.retry_at is null or c.retry_at <= clock_timestamp())
        and not exists (select from changes w
                        where w.retry_at > clock_timestamp() and w.entity = c.entity
                          and w.entity_id = c.entity_id and w.seq < c.seq)
      order by c.seq limit (select max) -- unknown to the planner, which keeps its plan for it
    ), lists as materialized (
      select array_agg(d.seq order by d.seq) as seqs, array_agg(d.entity order by d.seq) as entities,
             array_agg(d.entity_id order by d.seq) as ids, array_agg(d.old order by d.seq) as olds,
             array_agg(d.new order by d.seq) as news,
             array_agg(d.noticed_at order by d.seq) as noticed,
             array_agg(coalesce(d.modified_on,
                                (coalesce(d.new, d.old) ->> 'modified_on')::timestamptz, 'infinity')
                       order by d.seq) as modified
      from due d
    )
    select a.seqs[s.n], a.entities[s.n], a.ids[s.n], s.old, s.new, s.snapshot, s.missing,
           nullif(a.modified[s.n], 'infinity'), l.live_since,
           clock_timestamp() - a.noticed[s.n], s.waiting, a.noticed[s.n]
    from lists a
    cross join lateral snapshots_of(a.entities, a.ids, a.olds, a.news) s
    left join sync_cursors l on l.entity = feed_of(a.entities[s.n])
    order by s.n;
end $$;
