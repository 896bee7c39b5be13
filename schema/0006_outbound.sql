-- database: engine
-- What leaves the company: the ledger of messages and of vendors' calls, the policy that stands
-- between a script and a customer, the vendors' rate limits, and what vendors tell us afterwards.
--
-- A row of the ledger is a fact with one of these states:
--
--     postponed --> intent --> sent
--                     |  `---> refused            (before the first byte, or a 4xx): a new attempt may follow
--                     `------> in_doubt --> sent | not_sent | held --(a person, a callback)--> sent | not_sent | suppressed
--     suppressed, held (too late)                 never left
--
-- Whoever knows an outcome writes it, without a lease; the first one counts.

create table messaging_log (
  id uuid primary key,                   -- also the intent id that vendors give back to us
  instance_id uuid not null,
  run smallint not null,
  step text not null,                    -- branch/ordinal
  call text not null,                    -- the name of the call inside its action
  attempt smallint not null,
  workflow text,
  shadow boolean not null default false,
  channel text not null check (channel in ('sms', 'email')),
  class text not null check (class in ('marketing', 'transactional')),
  customer_id bigint,
  staff boolean not null default false,
  address text,                          -- normalised; null: none was found
  zone text,
  subject text,
  body text,
  once text,                             -- never twice to this customer
  state text not null,
  rule text,                             -- why it was suppressed, postponed or held
  until timestamptz,                     -- postponed: business time at which it is asked again
  due_at timestamptz,                    -- business time
  decided_at timestamptz not null,       -- business time of the intent, or of the refusal by policy
  intended_at timestamptz not null default clock_timestamp(), -- real time
  outcome_at timestamptz,                -- real time
  sent_at timestamptz,                   -- business time
  provider_id text,                      -- Twilio's sid, SendGrid's X-Message-Id
  status text,                           -- the vendor's newest word on its delivery
  status_rank smallint not null default 0,
  error_code text,
  error_message text,
  retryable boolean not null default false,
  looks smallint not null default 0,     -- look-ups that found nothing at all
  looked_at timestamptz,
  settled_by text,                       -- answer, callback, look-up, person, in_doubt (the option)
  unique (instance_id, run, step, call, attempt)
);
create index messaging_log_address on messaging_log (address, intended_at);
create index messaging_log_provider on messaging_log (provider_id) where provider_id is not null;
create index messaging_log_customer on messaging_log (customer_id, intended_at);
create index messaging_log_open on messaging_log (intended_at)
  where state in ('intent', 'in_doubt', 'held', 'postponed');

-- Calls of actions that change something at a vendor.
create table outbound_log (
  id uuid primary key,
  instance_id uuid not null,
  run smallint not null,
  step text not null,
  call text not null,
  attempt smallint not null,
  workflow text,
  shadow boolean not null default false,
  provider text not null,
  effect text not null check (effect in ('idempotent', 'once')),
  method text not null,
  url text not null,                     -- without its query's secrets; credentials are headers
  request text,
  state text not null,                   -- intent, done, refused, in_doubt, not_sent, held, suppressed
  http_status int,
  response text,
  error_message text,
  retryable boolean not null default false,
  at timestamptz not null,               -- business time
  intended_at timestamptz not null default clock_timestamp(),
  outcome_at timestamptz,
  settled_by text,
  unique (instance_id, run, step, call, attempt)
);
create index outbound_log_open on outbound_log (intended_at)
  where state in ('intent', 'in_doubt', 'held');

-- Addresses that must not be written to: by their owner's word, or because nothing arrives there.
create table opt_outs (
  channel text not null,
  address text not null,
  kind text not null check (kind in ('opted_out', 'undeliverable')),
  source text not null,                  -- stop, words, carrier, unsubscribe, spam, bounce, ...
  said text,
  at timestamptz not null,               -- business time
  primary key (channel, address, kind)
);

-- Consent to marketing that was recorded here; ServiceTitan's own comes with the recipient.
create table consents (
  channel text not null,
  address text not null,
  granted boolean not null,
  source text not null,
  at timestamptz not null,
  primary key (channel, address)
);

-- A cap is a set of slots: whoever inserts (address, day, n) may send.
create table message_slots (
  channel text not null,
  address text not null,
  day date not null,                     -- of the recipient's calendar
  shadow boolean not null,
  n smallint not null,
  message_id uuid not null,
  primary key (channel, address, day, shadow, n)
);
create index message_slots_message on message_slots (message_id);

create table message_once (
  who text not null,                     -- customer:ID, or the address
  what text not null,
  shadow boolean not null,
  message_id uuid not null,
  primary key (who, what, shadow)
);
create index message_once_message on message_once (message_id);

-- When a person may be written to, on the clock where they live. The narrowest of all that apply
-- counts: ours ('*' and the class), the federal rule and the state's (marketing). '??' is for an
-- address whose state isn't known.
create table quiet_rules (
  scope text not null,                   -- 'default', 'federal', a state's two letters, '??'
  class text not null,
  weekdays int[] not null,               -- 1 Monday .. 7 Sunday
  opens time not null,
  closes time not null,
  primary key (scope, class, weekdays)
);
insert into quiet_rules (scope, class, weekdays, opens, closes) values
  ('default', 'marketing', '{1,2,3,4,5,6,7}', '09:00', '20:00'),
  ('default', 'transactional', '{1,2,3,4,5,6,7}', '07:00', '21:00'),
  ('federal', 'marketing', '{1,2,3,4,5,6,7}', '08:00', '21:00'),
  ('FL', 'marketing', '{1,2,3,4,5,6,7}', '08:00', '20:00'),
  ('OK', 'marketing', '{1,2,3,4,5,6,7}', '08:00', '20:00'),
  ('MD', 'marketing', '{1,2,3,4,5,6,7}', '08:00', '20:00'),
  ('MS', 'marketing', '{1,2,3,4,5,6,7}', '08:00', '20:00'),
  ('NJ', 'marketing', '{1,2,3,4,5,6,7}', '08:00', '20:00'),
  ('CT', 'marketing', '{1,2,3,4,5,6,7}', '09:00', '20:00'),
  ('TX', 'marketing', '{1,2,3,4,5,6}', '09:00', '21:00'),
  ('TX', 'marketing', '{7}', '12:00', '21:00'),
  ('??', 'marketing', '{1,2,3,4,5,6}', '09:00', '20:00'),
  ('??', 'marketing', '{7}', '12:00', '20:00');

-- One row per vendor: a bucket whose capacity and refill never pass the vendor's window, the pause
-- it asked for, and the breaker.
create table provider_limits (
  provider text primary key,
  capacity int not null,
  refill double precision not null,      -- tokens a second
  tokens double precision not null,
  refilled_at timestamptz not null default clock_timestamp(),
  paused_until timestamptz,
  failures int not null default 0
) with (fillfactor = 50);
insert into provider_limits (provider, capacity, refill, tokens) values
  ('ghl', 20, 7.5, 20),                  -- 100 in 10 s
  ('twilio', 30, 30, 30),
  ('sendgrid', 30, 30, 30);

create table webhook_deliveries (
  provider text not null,
  delivery_id text not null,
  received_at timestamptz not null default now(),
  primary key (provider, delivery_id)
);
create index webhook_deliveries_age on webhook_deliveries (received_at);

create table inbound_messages (
  id text primary key,                   -- the vendor's
  channel text not null,
  address text not null,                 -- whose it is
  to_address text,
  body text,
  at timestamptz not null                -- business time
);
create index inbound_messages_address on inbound_messages (address, at);

-- A number of the settings table, or what it is without one.
create function setting_number(p_name text, p_default double precision) returns double precision
language sql stable as $$
  select coalesce((select value::double precision from settings where name = p_name), p_default)
$$;

-- With the ServiceTitan tables in a database of their own these two are defined here as well.
do $do$
begin
  if to_regprocedure('phone_e164(text)') is null then
    create function phone_e164(phone text) returns text language sql immutable as $$
      select case
        when phone is null then null
        when btrim(phone) ~ '^\+' and length(d) between 8 and 15 then '+' || d
        when length(d) = 10 and d ~ '^[2-9]' then '+1' || d
        when length(d) = 11 and d ~ '^1[2-9]' then '+' || d end
      from regexp_replace(phone, '[^0-9]', '', 'g') d
    $$;
  end if;
  if to_regprocedure('email_normal(text)') is null then
    create function email_normal(email text) returns text language sql immutable as $$
      select case when e ~ '^[^@\s]+@[^@\s]+\.[^@\s]+$' then e end from lower(btrim(email)) e
    $$;
  end if;
end
$do$;

-- ---- Quiet hours -------------------------------------------------------------------------------

-- The opening hours of one local day: the intersection of every rule that applies.
create function quiet_window(p_class text, p_state text, p_weekday int, out opens time, out closes time)
language sql stable as $$
  select max(r.opens), min(r.closes) from quiet_rules r
  where r.class = p_class and p_weekday = any (r.weekdays)
    and r.scope in ('default', 'federal', coalesce(nullif(upper(p_state), ''), '??'))
$$;

-- Null when this moment is allowed, else the next one that is. An unknown zone must be allowed on
-- both ends of the country.
create function quiet_until(p_class text, p_zone text, p_state text, p_at timestamptz)
returns timestamptz language plpgsql stable as $$
declare
  zones text[] := case when p_zone is null then array['America/New_York', 'Pacific/Honolulu']
                       else array[p_zone] end;
  v_at timestamptz := p_at;
  v_zone text;
  v_local timestamp;
  v_next timestamptz;
  v_window record;
  moved boolean;
begin
  for i in 1..40 loop
    moved := false;
    foreach v_zone in array zones loop
      v_local := v_at at time zone v_zone;
      v_window := quiet_window(p_class, p_state, extract(isodow from v_local)::int);
      if v_window.opens is null then
        continue;
      end if;
      if v_local::time < v_window.opens then
        v_next := (v_local::date + v_window.opens) at time zone v_zone;
      elsif v_local::time >= v_window.closes then
        v_window := quiet_window(p_class, p_state, extract(isodow from v_local + interval '1 day')::int);
        v_next := (v_local::date + 1 + coalesce(v_window.opens, time '00:00')) at time zone v_zone;
      else
        continue;
      end if;
      moved := true;
      v_at := greatest(v_next, v_at + interval '1 second');
    end loop;
    exit when not moved;
  end loop;
  return nullif(v_at, p_at);
end
$$;

-- ---- The intent of a message -------------------------------------------------------------------

-- "2026-11-23T05:52:28.796169Z", whatever the session's time zone.
create function ledger_time(at timestamptz) returns text language sql immutable as $$
  select to_char(at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
$$;

-- What a row says to the action that asked for it.
create function message_verdict(m messaging_log, p_verdict text) returns json language sql stable as $$
  select json_build_object('verdict', p_verdict, 'id', m.id, 'state', m.state, 'rule', m.rule,
    'channel', m.channel, 'address', m.address, 'subject', m.subject, 'text', m.body,
    'shadow', m.shadow, 'attempt', m.attempt, 'provider_id', m.provider_id,
    'time', utc(coalesce(m.sent_at, m.decided_at)),
    'code', m.error_code, 'message', m.error_message,
    'until', ledger_time(real_of(m.until)),
    'intended_at', ledger_time(m.intended_at), 'looks', m.looks,
    'age', extract(epoch from clock_timestamp() - m.intended_at))
$$;

-- Frees what a message that will not arrive has taken.
create function message_release(p_id uuid) returns void language sql as $$
  delete from message_slots where message_id = p_id;
  delete from message_once where message_id = p_id;
$$;

create function message_cap(p_channel text, p_class text) returns int language sql stable as $$
  select case when p_class = 'marketing'
    then setting_number('cap_marketing_' || p_channel, 1)::int end
$$;

-- Takes a slot of the day; false when none is free.
create function message_slot(p_channel text, p_address text, p_day date, p_shadow boolean, p_cap int,
                             p_id uuid) returns boolean language plpgsql as $$
begin
  for n in 1..p_cap loop
    insert into message_slots (channel, address, day, shadow, n, message_id)
    values (p_channel, p_address, p_day, p_shadow, n, p_id) on conflict do nothing;
    if found then
      return true;
    end if;
  end loop;
  return false;
end
$$;

-- The policy, for a message that nothing has been decided about. Sets state, rule and until.
create function message_policy(m messaging_log, p json) returns messaging_log
language plpgsql as $$
declare
  r json := p->'recipient';
  v_now timestamptz := business_now();
  v_real timestamptz := clock_timestamp();
  v_not_after timestamptz := (p->>'not_after')::timestamptz;
  v_stale double precision := coalesce((p->>'stale_ms')::double precision / 1000, 1800);
  v_state text := upper(coalesce(r->>'state', p->>'state'));
  v_consent boolean;
  v_cap int;
  v_day date;
begin
  m.state := 'suppressed';
  m.until := null;
  if m.address is null then
    m.rule := 'no_address';
    return m;
  end if;
  if v_not_after <= v_now then
    m.rule := 'too_late';
    return m;
  end if;
  select kind into m.rule from opt_outs where channel = m.channel and address = m.address
  order by kind limit 1;
  if m.rule is not null then
    return m;
  end if;
  if not m.staff then
    if (m.channel = 'sms' and (r->>'do_not_text')::boolean)
       or (m.channel = 'email' and (r->>'do_not_mail')::boolean) then
      m.rule := 'opted_out';
      return m;
    end if;
    if (r->>'do_not_service')::boolean then
      m.rule := 'do_not_service';
      return m;
    end if;
    if m.class = 'marketing' then
      -- Recorded here or there; a refusal in either place counts.
      select granted into v_consent from consents where channel = m.channel and address = m.address;
      if not coalesce(least(v_consent, (r->>'marketing_consent')::boolean), false) then
        m.rule := 'no_consent';
        return m;
      end if;
    end if;
  end if;

  -- Late: more than a day after it was due, and not just because business time runs fast.
  if v_now - m.due_at > interval '1 day'
     and v_real - real_of(m.due_at)
         > make_interval(secs => coalesce((p->>'late_ms')::double precision / 1000, 600))
     and not coalesce((p->>'late_ok')::boolean, false) then
    m.state := 'held';
    m.rule := 'late';
    return m;
  end if;

  if not m.staff then
    -- Stale: what we know about this customer may be out of date, or isn't settled yet.
    if (r is not null and json_typeof(r) = 'object'
        and (coalesce((r->>'stale_seconds')::double precision, 1e9) > v_stale
             or coalesce((r->>'backlog_seconds')::double precision, 0) > v_stale
             or coalesce((r->>'catching_up')::boolean, false)))
       or exists (select from arrivals a where a.arrived_at < v_real - make_interval(secs => v_stale))
    then
      m.state := 'postponed';
      m.rule := 'stale';
      m.until := business_of(v_real + make_interval(secs => setting_number('stale_retry_seconds', 60)));
    elsif m.class = 'marketing' or not exists (
        select from inbound_messages i where i.address = m.address
          and i.at > v_now - interval '1 hour') then
      m.until := quiet_until(m.class, m.zone, v_state, v_now);
      if m.until is not null then
        m.state := 'postponed';
        m.rule := 'quiet_hours';
      end if;
    end if;
    if m.until >= v_not_after then
      m.state := 'suppressed';
      m.rule := 'too_late';
      m.until := null;
    end if;
    if m.until is not null or m.rule is not null then
      return m;
    end if;
  end if;

  if m.once is not null then
    insert into message_once (who, what, shadow, message_id)
    values (coalesce('customer:' || m.customer_id, m.address), m.once, m.shadow, m.id)
    on conflict do nothing;
    if not found then
      m.rule := 'already_sent';
      return m;
    end if;
  end if;

  v_cap := case when m.staff then null else message_cap(m.channel, m.class) end;
  if v_cap is not null then
    v_day := (v_now at time zone coalesce(m.zone, 'America/New_York'))::date;
    if not message_slot(m.channel, m.address, v_day, m.shadow, v_cap, m.id) then
      perform message_release(m.id);
      m.rule := 'cap';
      m.until := (v_day + 1)::timestamp at time zone coalesce(m.zone, 'America/New_York');
      m.until := coalesce(quiet_until(m.class, m.zone, v_state, m.until), m.until);
      if m.until >= v_not_after then
        m.until := null;
      else
        m.state := 'postponed';
      end if;
      return m;
    end if;
  end if;

  m.state := case when m.shadow then 'sent' else 'intent' end;
  m.rule := null;
  return m;
end
$$;

-- Says what may happen to a message now, and writes the intent when it may leave. One statement of
-- a unit whose first is the fence. `p`: id instance run step call workflow mode live test class
-- channel customer_id staff address zone state subject text once not_after due, and `recipient` as
-- ServiceTitan's tables know it right now.
create function message_intent(p json) returns json language plpgsql as $$
declare
  m messaging_log;
  old messaging_log;
  r json := p->'recipient';
  v_found boolean;
begin
  -- Until we commit no event can be settled: no intent commits after a stop it has not seen.
  perform 1 from gate for share;
  select * into old from messaging_log
  where instance_id = (p->>'instance')::uuid and run = (p->>'run')::smallint
    and step = p->>'step' and call = p->>'call'
  order by (state = 'sent') desc, attempt desc limit 1 for update;
  v_found := found;
  if v_found then
    if old.state = 'sent' then   -- which may have turned out while a next attempt was postponed
      delete from messaging_log l
      where l.instance_id = old.instance_id and l.run = old.run and l.step = old.step
        and l.call = old.call and l.state = 'postponed';
    end if;
    if old.state in ('sent', 'suppressed') then
      return message_verdict(old, 'already');
    elsif old.state = 'intent' and old.id = (p->>'id')::uuid then
      return message_verdict(old, 'send');   -- our own, whose commit we were not told of
    elsif old.state in ('intent', 'in_doubt') then
      return message_verdict(old, 'in_doubt');
    elsif old.state = 'held' then
      return message_verdict(old, 'held');
    end if;
  end if;
  if stop_pending((p->>'instance')::uuid) then
    return json_build_object('verdict', 'stopping');
  end if;

  m.id := (p->>'id')::uuid;
  m.attempt := case when not v_found then 1 when old.state = 'postponed' then old.attempt
                    else old.attempt + 1 end;
  m.instance_id := (p->>'instance')::uuid;
  m.run := (p->>'run')::smallint;
  m.step := p->>'step';
  m.call := p->>'call';
  m.workflow := p->>'workflow';
  m.channel := p->>'channel';
  m.class := p->>'class';
  m.staff := coalesce((p->>'staff')::boolean, false);
  m.customer_id := coalesce((r->>'customer_id')::bigint, (p->>'customer_id')::bigint);
  m.address := case m.channel
    when 'sms' then phone_e164(coalesce(r->>'phone', case when r is null or json_typeof(r) = 'null'
                                                          then p->>'address' end))
    else email_normal(coalesce(r->>'email', case when r is null or json_typeof(r) = 'null'
                                                 then p->>'address' end)) end;
  m.zone := coalesce(r->>'zone', p->>'zone');
  m.subject := p->>'subject';
  m.body := p->>'text';
  m.once := p->>'once';
  -- Waiting for an hour, a day or a cap is no delay; waiting for fresh knowledge is one.
  m.due_at := case when old.state = 'postponed' and old.rule = 'stale' then old.due_at
                   when old.state = 'postponed' then greatest(old.due_at, old.until)
                   else (p->>'due')::timestamptz end;
  m.decided_at := business_now();
  m.intended_at := clock_timestamp();
  m.status_rank := 0;
  m.looks := 0;
  m.retryable := false;
  -- A worker that may not send never does; a shadow instance does to the numbers kept for tests.
  m.shadow := not coalesce((p->>'live')::boolean, false)
    or (p->>'mode' <> 'live' and not exists (
      select from json_array_elements_text(coalesce(p->'test', '[]')) t
      where phone_e164(t) = m.address or email_normal(t) = m.address));
  m := message_policy(m, (p::jsonb || jsonb_build_object(
    'late_ok', old.state = 'not_sent' and old.settled_by = 'person'))::json);
  if m.state = 'sent' then
    m.sent_at := m.decided_at;
    m.outcome_at := m.intended_at;
    m.settled_by := 'shadow';
  end if;

  if v_found and old.state = 'postponed' then
    delete from messaging_log where id = old.id;
  end if;
  insert into messaging_log select m.*;
  return message_verdict(m, case m.state when 'intent' then 'send' when 'sent' then 'already'
    when 'suppressed' then 'already' else m.state end);
end
$$;

-- ---- What became of it -------------------------------------------------------------------------

-- Wakes an instance that waits for the outcome of a send or call. One that a person paused, or that
-- is stuck for another reason, stays as it is.
create function outbound_wake(p_instance uuid) returns void language plpgsql as $$
begin
  perform resume_instance(q.instance_id) from workflow_queue q
  where q.instance_id = p_instance and q.state <> 'paused'
    and (q.state <> 'stuck' or q.reason->>'code' in ('send_in_doubt', 'send_late'));
  if found then
    perform pg_notify('work', '');
  end if;
end
$$;

create function opt_out(p_channel text, p_address text, p_kind text, p_source text, p_said text)
returns void language sql as $$
  insert into opt_outs (channel, address, kind, source, said, at)
  values (p_channel, p_address, p_kind, p_source, p_said, business_now()) on conflict do nothing
$$;

-- Writes what the vendor answered: sent, refused, in_doubt, or suppressed (it says that the address
-- is opted out or can't be reached). Unfenced; a fact that is there already stays. Returns the row.
create function message_outcome(p_id uuid, p_outcome text, p_provider_id text, p_code text,
                                p_message text, p_retryable boolean) returns json
language plpgsql as $$
declare
  m messaging_log;
  v_kind text;
  v_was text;
begin
  select * into m from messaging_log where id = p_id for update;
  if not found then
    raise exception 'no message % in the ledger', p_id;
  end if;
  v_was := m.state;
  if m.state = 'intent' or (m.state = 'not_sent' and p_outcome = 'sent')
     or (m.state in ('in_doubt', 'held') and p_outcome <> 'in_doubt'
         and m.rule is distinct from 'late') then
    m.state := p_outcome;
    m.rule := null;
    m.provider_id := coalesce(m.provider_id, p_provider_id);
    m.error_code := p_code;
    m.error_message := p_message;
    m.retryable := coalesce(p_retryable, false);
    m.outcome_at := clock_timestamp();
    m.settled_by := 'answer';
    if p_outcome = 'sent' then
      m.sent_at := business_now();
    elsif p_outcome = 'suppressed' then
      v_kind := case when p_code = '21610' then 'opted_out' else 'undeliverable' end;
      m.rule := v_kind;
      perform opt_out(m.channel, m.address, v_kind, 'carrier', p_message);
    end if;
    update messaging_log l set (state, rule, provider_id, error_code, error_message, retryable,
        outcome_at, settled_by, sent_at)
      = (m.state, m.rule, m.provider_id, m.error_code, m.error_message, m.retryable, m.outcome_at,
         m.settled_by, m.sent_at)
    where l.id = p_id;
    if m.state in ('refused', 'suppressed') then
      perform message_release(p_id);
    end if;
    if v_was <> 'intent' then
      perform outbound_wake(m.instance_id);
    end if;
  elsif m.provider_id is null and p_provider_id is not null then
    m.provider_id := p_provider_id;
    update messaging_log set provider_id = p_provider_id where id = p_id;
  end if;
  return message_verdict(m, 'already');
end
$$;

-- What may be on the wire at this moment can't be known by anybody: a request takes 35 s at most.
create function outbound_on_its_way(p_state text, p_since timestamptz) returns void
language plpgsql as $$
begin
  if p_state = 'intent' and clock_timestamp() < p_since + interval '45 seconds' then
    raise exception 'it may be on its way just now: say it again in a minute';
  end if;
end
$$;

-- A person's word on a send that is held: 'sent', 'not_sent' (policy decides again, then it
-- leaves) or 'drop'. Also for a call of an action. Returns what it was.
create function settle_send(p_id uuid, p_verdict text) returns text language plpgsql as $$
declare
  v_state text;
  v_instance uuid;
  v_since timestamptz;
begin
  if p_verdict not in ('sent', 'not_sent', 'drop') then
    raise exception 'the verdict is sent, not_sent or drop, not ''%''', p_verdict;
  end if;
  select state, instance_id, intended_at into v_state, v_instance, v_since
  from messaging_log where id = p_id for update;
  if found then
    if v_state not in ('intent', 'in_doubt', 'held') then
      raise exception 'this send is not held: it is %', v_state;
    end if;
    perform outbound_on_its_way(v_state, v_since);
    update messaging_log set
      state = case p_verdict when 'drop' then 'suppressed' else p_verdict end,
      rule = case p_verdict when 'drop' then 'dropped' end,
      sent_at = case p_verdict when 'sent' then business_now() end,
      outcome_at = clock_timestamp(), settled_by = 'person'
    where id = p_id;
    if p_verdict <> 'sent' then
      perform message_release(p_id);
    end if;
  else
    select state, instance_id, intended_at into v_state, v_instance, v_since
    from outbound_log where id = p_id for update;
    if not found then
      raise exception 'no send % in the ledger', p_id;
    end if;
    if v_state not in ('intent', 'in_doubt', 'held') then
      raise exception 'this call is not held: it is %', v_state;
    end if;
    perform outbound_on_its_way(v_state, v_since);
    update outbound_log set
      state = case p_verdict when 'sent' then 'done' when 'drop' then 'suppressed' else 'not_sent' end,
      outcome_at = clock_timestamp(), settled_by = 'person'
    where id = p_id;
  end if;
  perform outbound_wake(v_instance);
  return v_state;
end
$$;

-- ---- In doubt ----------------------------------------------------------------------------------

-- Keeps a send or a call that nobody could decide for a person.
-- What an author said beforehand about a send that would be held: 'sent' or 'drop'. A word that
-- came meanwhile, from the vendor or a person, stays.
create function settle_declared(p_id uuid, p_verdict text) returns void language plpgsql as $$
begin
  perform 1 from messaging_log where id = p_id and state = 'held' and rule is distinct from 'late'
  for update;
  if found then
    perform settle_send(p_id, p_verdict);
    update messaging_log set settled_by = 'in_doubt' where id = p_id;
    return;
  end if;
  perform 1 from outbound_log where id = p_id and state = 'held' for update;
  if found then
    perform settle_send(p_id, p_verdict);
    update outbound_log set settled_by = 'in_doubt' where id = p_id;
  end if;
end
$$;

create function outbound_hold(p_id uuid, p_rule text) returns void language sql as $$
  update messaging_log set state = 'held', rule = p_rule where id = p_id and state in ('intent', 'in_doubt');
  update outbound_log set state = 'held', error_message = coalesce(error_message, p_rule)
  where id = p_id and state in ('intent', 'in_doubt');
$$;

-- Judges Twilio's list of the messages to that number. 'sent' needs a message with this body that
-- no row of the ledger owns; 'not_sent' needs no unowned message at all, twice (the second time at
-- least p_second seconds after the intent); anything else is held. Returns sent, not_sent, again, held.
create function message_lookup(p_id uuid, p_list json, p_second double precision) returns text
language plpgsql as $$
declare
  m messaging_log;
  v_since timestamptz;
  v_unowned int;
  v_match text;
  v_oldest timestamptz;
begin
  select * into m from messaging_log where id = p_id for update;
  if m.state not in ('intent', 'in_doubt') then
    return case m.state when 'sent' then 'sent' else m.state end;
  end if;
  if p_list is null or json_typeof(p_list->'messages') is distinct from 'array' then
    return 'again';
  end if;
  -- The vendor's clock and ours may differ by some seconds of real time.
  v_since := business_of(m.intended_at - interval '10 seconds');
  select count(*), min(x->>'sid') filter (where x->>'body' = m.body) into v_unowned, v_match
  from json_array_elements(p_list->'messages') x
  where phone_e164(x->>'to') = m.address and coalesce(x->>'direction', 'outbound-api') not like 'inbound%'
    and coalesce((x->>'date_created')::timestamptz, 'infinity') >= v_since
    and not exists (select from messaging_log o where o.provider_id = x->>'sid');
  select min((x->>'date_created')::timestamptz) into v_oldest from json_array_elements(p_list->'messages') x;
  if v_match is not null then
    update messaging_log set state = 'sent', provider_id = v_match, rule = null,
      sent_at = business_of(intended_at), outcome_at = clock_timestamp(), settled_by = 'look-up'
    where id = p_id;
    return 'sent';
  elsif v_unowned > 0 or (p_list->>'next_page_uri' is not null and coalesce(v_oldest, v_since) >= v_since) then
    perform outbound_hold(p_id, 'in_doubt');
    return 'held';
  elsif m.looks = 0 or extract(epoch from clock_timestamp() - m.intended_at) < p_second
        or extract(epoch from clock_timestamp() - m.looked_at) < p_second * 0.6 then
    update messaging_log set state = 'in_doubt', looks = looks + 1,
      looked_at = case when looks = 0 then clock_timestamp() else looked_at end
    where id = p_id;
    return 'again';
  end if;
  update messaging_log set state = 'not_sent', outcome_at = clock_timestamp(), settled_by = 'look-up'
  where id = p_id;
  perform message_release(p_id);
  return 'not_sent';
end
$$;

-- ---- Calls of actions --------------------------------------------------------------------------

-- p: id instance run step call workflow mode live provider effect method url request. A call that
-- was made is not made again: its recorded answer is given.
create function call_intent(p json) returns json language plpgsql as $$
declare
  c outbound_log;
  v_shadow boolean := p->>'mode' <> 'live' or not coalesce((p->>'live')::boolean, false);
begin
  perform 1 from gate for share;
  select * into c from outbound_log
  where instance_id = (p->>'instance')::uuid and run = (p->>'run')::smallint
    and step = p->>'step' and call = p->>'call'
  order by (state = 'done') desc, attempt desc limit 1 for update;
  if c.state in ('done', 'suppressed') then
    return json_build_object('verdict', 'already', 'id', c.id, 'state', c.state,
      'status', c.http_status, 'response', c.response, 'shadow', c.shadow);
  elsif c.state = 'held' then
    return json_build_object('verdict', 'held', 'id', c.id);
  elsif c.state in ('intent', 'in_doubt') and c.id <> (p->>'id')::uuid and c.effect = 'once' then
    return json_build_object('verdict', 'in_doubt', 'id', c.id, 'intended_at', ledger_time(c.intended_at),
      'age', extract(epoch from clock_timestamp() - c.intended_at));
  elsif c.state = 'intent' and c.id = (p->>'id')::uuid then
    return json_build_object('verdict', 'send', 'id', c.id, 'attempt', c.attempt);
  end if;
  if stop_pending((p->>'instance')::uuid) then
    return json_build_object('verdict', 'stopping');
  end if;
  if c.state in ('intent', 'in_doubt') then   -- idempotent: repeating it is how we find out
    update outbound_log set state = 'not_sent', settled_by = 'repeated' where id = c.id;
  end if;
  insert into outbound_log (id, instance_id, run, step, call, attempt, workflow, shadow, provider,
    effect, method, url, request, state, at, outcome_at)
  values ((p->>'id')::uuid, (p->>'instance')::uuid, (p->>'run')::smallint, p->>'step', p->>'call',
    coalesce(c.attempt, 0) + 1, p->>'workflow', v_shadow, p->>'provider', p->>'effect',
    p->>'method', p->>'url', p->>'request', case when v_shadow then 'done' else 'intent' end,
    business_now(), case when v_shadow then clock_timestamp() end);
  return json_build_object('verdict', case when v_shadow then 'shadow' else 'send' end,
    'id', p->>'id', 'attempt', coalesce(c.attempt, 0) + 1);
end
$$;

-- Outcomes: done, refused, in_doubt. A later fact about a call in doubt counts; a repetition doesn't.
create function call_outcome(p_id uuid, p_outcome text, p_status int, p_response text,
                             p_message text, p_retryable boolean, p_by text) returns text
language plpgsql as $$
declare
  v_state text;
begin
  update outbound_log set state = p_outcome, http_status = p_status, response = p_response,
    error_message = p_message, retryable = coalesce(p_retryable, false),
    outcome_at = clock_timestamp(), settled_by = p_by
  where id = p_id and (state = 'intent' or (state = 'not_sent' and p_outcome = 'done')
                       or (state in ('in_doubt', 'held') and p_outcome <> 'in_doubt'));
  select state into v_state from outbound_log where id = p_id;
  return v_state;
end
$$;

-- ---- Limits ------------------------------------------------------------------------------------

-- Takes up to p_want tokens; with none, how long to wait until there is one.
create function draw_tokens(p_provider text, p_want int, out granted int, out wait_ms int)
language plpgsql as $$
declare
  l provider_limits;
  v_now timestamptz;
begin
  insert into provider_limits (provider, capacity, refill, tokens) values (p_provider, 10, 5, 10)
  on conflict do nothing;
  select * into l from provider_limits where provider = p_provider for update;
  v_now := greatest(clock_timestamp(), l.refilled_at);
  l.tokens := least(l.capacity, l.tokens + l.refill * extract(epoch from v_now - l.refilled_at));
  if l.paused_until > v_now then
    granted := 0;
    wait_ms := ceil(extract(epoch from l.paused_until - v_now) * 1000) + 1;
  else
    granted := least(p_want, floor(l.tokens)::int);
    wait_ms := case when granted > 0 then 0 else ceil((1 - l.tokens) / l.refill * 1000) end;
  end if;
  update provider_limits set tokens = l.tokens - granted, refilled_at = v_now
  where provider = p_provider;
end
$$;

-- What a vendor's answer means for everybody: a pause it asked for; after five failures in a row
-- the breaker opens for a growing while, up to a minute. An answer that is fine closes it.
create function provider_result(p_provider text, p_ok boolean, p_pause_ms int) returns void
language sql as $$
  update provider_limits set
    failures = case when p_ok then 0 else failures + 1 end,
    paused_until = case
      when p_pause_ms > 0 then greatest(paused_until, clock_timestamp() + p_pause_ms * interval '1 ms')
      when p_ok then null
      when failures + 1 >= 5 then clock_timestamp()
        + least(60, 2 ^ least(failures - 4, 6)) * interval '1 second'
      else paused_until end
  where provider = p_provider
$$;

-- ---- What vendors tell us ----------------------------------------------------------------------

-- A fact for detection. The customer's snapshot is as ServiceTitan's tables know it, or just the
-- address of somebody they don't know.
create function outbound_arrival(p_type text, p_customer json, p_more json, p_dedupe text)
returns void language plpgsql as $$
begin
  insert into arrivals (type, entity, entity_id, at, payload, dedupe)
  values (p_type, 'customer',
    coalesce(p_customer->>'id', p_customer->>'phone', p_customer->>'email'), business_now(),
    (jsonb_build_object('customer', p_customer) || coalesce(p_more, '{}')::jsonb)::json, p_dedupe)
  on conflict do nothing;
  perform pg_notify('arrivals', '');
end
$$;

-- One arrival per customer who has the address; `p_customers` is an array of snapshots
-- ({"customer": {...}}), null when nobody is known.
create function outbound_arrivals(p_type text, p_customers json, p_unknown json, p_more json,
                                  p_dedupe text) returns void language plpgsql as $$
declare
  v_customer json;
  v_any boolean := false;
begin
  if json_typeof(p_customers) = 'array' then
    for v_customer in select coalesce(x->'customer', x) from json_array_elements(p_customers) x
                      where json_typeof(x) = 'object'
    loop
      v_any := true;
      perform outbound_arrival(p_type, v_customer, p_more,
        p_type || ':' || p_dedupe || ':' || (v_customer->>'id'));
    end loop;
  end if;
  if not v_any then
    perform outbound_arrival(p_type, p_unknown, p_more, p_type || ':' || p_dedupe);
  end if;
end
$$;

-- Forgets deliveries that no vendor repeats any more, some at a time. Returns how many.
create function prune_deliveries(p_most int) returns bigint language sql as $$
  with old as (
    select provider, delivery_id from webhook_deliveries
    where received_at < now() - interval '30 days'
    order by received_at limit p_most for update skip locked
  ), gone as (
    delete from webhook_deliveries d using old
    where d.provider = old.provider and d.delivery_id = old.delivery_id returning 1
  )
  select count(*) from gone
$$;

create function webhook_first(p_provider text, p_delivery text) returns boolean
language plpgsql as $$
begin
  insert into webhook_deliveries (provider, delivery_id) values (p_provider, p_delivery)
  on conflict do nothing;
  return found;
end
$$;

-- The vendor speaks of a message: it has it. Its status only moves forward, whatever the order in
-- which it is told. `p_failed`: it says that the message won't arrive.
create function message_told(p_id uuid, p_provider_id text, p_status text, p_rank int, p_code text,
                             p_failed boolean) returns void language plpgsql as $$
declare
  m messaging_log;
  v_was text;
begin
  select * into m from messaging_log
  where id = p_id or (p_id is null and provider_id = p_provider_id)
  order by attempt desc limit 1 for update;
  if not found then
    return;
  end if;
  v_was := m.state;
  if m.state in ('intent', 'in_doubt', 'not_sent') or (m.state = 'held' and m.rule is distinct from 'late') then
    m.state := 'sent';
    m.rule := null;
    m.settled_by := 'callback';
    m.sent_at := coalesce(m.sent_at, business_now());
    m.outcome_at := clock_timestamp();
  end if;
  if p_rank > m.status_rank then
    m.status := p_status;
    m.status_rank := p_rank;
    if p_failed then
      m.error_code := p_code;
    end if;
  end if;
  update messaging_log l set (state, rule, settled_by, sent_at, outcome_at, status, status_rank,
      error_code, provider_id)
    = (m.state, m.rule, m.settled_by, m.sent_at, m.outcome_at, m.status, m.status_rank,
       m.error_code, coalesce(m.provider_id, p_provider_id))
  where l.id = m.id;
  if p_failed then
    if p_code in ('21610') then
      perform opt_out(m.channel, m.address, 'opted_out', 'carrier', null);
    elsif p_code in ('30006', '21614', 'bounce') then
      perform opt_out(m.channel, m.address, 'undeliverable', p_status, p_code);
    end if;
    if not m.staff then
      perform outbound_arrival('message_failed',
        json_strip_nulls(json_build_object('id', m.customer_id,
          'phone', case m.channel when 'sms' then m.address end,
          'email', case m.channel when 'email' then m.address end)),
        json_build_object('data', json_build_object('message', m.id, 'channel', m.channel,
          'workflow', m.workflow, 'code', p_code, 'status', p_status)),
        'message_failed:' || m.id);
    end if;
  end if;
  if v_was <> m.state and v_was <> 'intent' then
    perform outbound_wake(m.instance_id);
  end if;
end
$$;

create function uuid_or_null(p text) returns uuid language sql immutable as $$
  select case when p ~ '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$'
              then p::uuid end
$$;

-- p: m (our id, from the callback's address), sid, status, code. Returns ok or repeated.
create function hook_twilio_status(p json) returns text language plpgsql as $$
begin
  if not webhook_first('twilio', (p->>'sid') || ':' || (p->>'status')) then
    return 'repeated';
  end if;
  perform message_told(uuid_or_null(p->>'m'), p->>'sid', p->>'status',
    case p->>'status' when 'accepted' then 1 when 'scheduled' then 1 when 'queued' then 2
      when 'sending' then 3 when 'sent' then 4 when 'delivered' then 6 when 'undelivered' then 6
      when 'failed' then 6 when 'canceled' then 6 when 'read' then 7 else 0 end,
    p->>'code', p->>'status' in ('failed', 'undelivered', 'canceled'));
  return 'ok';
end
$$;

-- What a text says about further texts: 'stop', 'words' (a refusal in free words), 'start', or null.
create function revocation(p_text text, p_type text) returns text language sql immutable as $$
  select case
    when p_type = 'STOP' or w ~ '^(stop|stopall|stop all|unsubscribe|cancel|end|quit|optout|opt out|revoke)$'
      then 'stop'
    when p_type = 'START' or w ~ '^(start|unstop|yes)$' then 'start'
    when w ~ '\m(stop|quit|cease)\M.{0,20}\m(text|texting|texts|messag\w*|contact\w*|send\w*|call\w*|emailing|bothering|spam\w*|these|this)\M'
      or w ~ '\m(dont|do not|never|no longer)( ever| please| you)* (text|message|contact|call|email|write)( to)? (me|us|this)\M'
      or w ~ '\m(unsubscribe|opt (me )?out|opting out|take me off|remove me|remove my|remove this number|no more (texts?|messages?)|leave me alone|wrong number.{0,20}stop)\M'
      then 'words' end
  from (select btrim(regexp_replace(regexp_replace(lower(coalesce(p_text, '')), '[''’]', '', 'g'),
                                    '[^a-z]+', ' ', 'g')) as w) x
$$;

-- p: sid, from, to, text, opt_out_type, and `customers`: snapshots of everyone with this number.
create function hook_twilio_inbound(p json) returns text language plpgsql as $$
declare
  v_from text := phone_e164(p->>'from');
  v_said text := revocation(p->>'text', p->>'opt_out_type');
  v_reply json;
begin
  if not webhook_first('twilio', (p->>'sid') || ':received') then
    return 'repeated';
  end if;
  insert into inbound_messages (id, channel, address, to_address, body, at)
  values (p->>'sid', 'sms', coalesce(v_from, p->>'from'), p->>'to', p->>'text', business_now())
  on conflict do nothing;
  if not found then
    return 'repeated';   -- an old START, sent again when the list of deliveries forgot it
  end if;
  if v_from is null then
    return 'ok';   -- a short code: nobody whom we could write to
  end if;
  v_reply := json_build_object('reply', json_build_object('id', p->>'sid',
    'text', coalesce(p->>'text', ''), 'channel', 'sms', 'phone', v_from));
  if v_said in ('stop', 'words') then
    perform opt_out('sms', v_from, 'opted_out', v_said, p->>'text');
    perform outbound_arrivals('customer_opted_out', p->'customers',
      json_build_object('phone', v_from), v_reply, p->>'sid');
  elsif v_said = 'start' then
    delete from opt_outs where channel = 'sms' and address = v_from and kind = 'opted_out';
  end if;
  perform outbound_arrivals('customer_replied', p->'customers', json_build_object('phone', v_from),
    v_reply, p->>'sid');
  return 'ok';
end
$$;

-- SendGrid's events, and the snapshots of those who unsubscribe by their address. `p_sent_at` is
-- the signed time of the delivery: one that is old by our clocks changes nothing.
create function hook_sendgrid(p_events json, p_customers json, p_sent_at double precision)
returns text language plpgsql as $$
declare
  e json;
  v_kind text;
  v_address text;
  v_sent timestamptz := to_timestamp(p_sent_at);
begin
  if abs(extract(epoch from clock_timestamp() - v_sent)) > 600
     and abs(extract(epoch from clock_timestamp() - real_of(v_sent))) > 600 then
    return 'stale';
  end if;
  for e in select x from json_array_elements(p_events) x
           where json_typeof(x) = 'object' and x->>'sg_event_id' is not null
           order by (x->>'sg_event_id')
  loop
    v_kind := e->>'event';
    v_address := email_normal(e->>'email');
    if not webhook_first('sendgrid', e->>'sg_event_id') then
      continue;
    end if;
    if v_kind in ('unsubscribe', 'group_unsubscribe', 'spamreport') and v_address is not null then
      perform opt_out('email', v_address, 'opted_out', v_kind, null);
      perform outbound_arrivals('customer_opted_out', p_customers->v_address,
        json_build_object('email', v_address), null, e->>'sg_event_id');
    elsif v_kind = 'group_resubscribe' then
      delete from opt_outs where channel = 'email' and address = v_address and kind = 'opted_out';
    elsif v_kind = 'bounce' and coalesce(e->>'type', 'bounce') <> 'blocked' and v_address is not null then
      perform opt_out('email', v_address, 'undeliverable', 'bounce', e->>'reason');
    end if;
    perform message_told(uuid_or_null(e->>'moonwright_id'), split_part(e->>'sg_message_id', '.', 1),
      v_kind, case v_kind when 'processed' then 1 when 'deferred' then 2 when 'delivered' then 4
        when 'bounce' then 4 when 'dropped' then 4 when 'open' then 5 when 'click' then 6
        when 'unsubscribe' then 7 when 'group_unsubscribe' then 7 when 'spamreport' then 8 else 0 end,
      case v_kind when 'bounce' then coalesce(e->>'type', 'bounce') else e->>'reason' end,
      v_kind in ('bounce', 'dropped'));
  end loop;
  return 'ok';
end
$$;
