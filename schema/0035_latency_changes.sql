-- database: servicetitan
-- Detection's looks are mostly at nothing: then the large statements aren't even begun, of which the
-- beginning alone costs more than all else that a look does.

-- The next changes, oldest first, with everything detection needs to judge them. Those that are
-- older than the entity's live_since are history: they are dropped here, unless history is true.
-- A row with a change that waits for its parents keeps its later changes waiting too.
create or replace function read_changes(max int, history boolean default false)
returns table (seq bigint, entity text, entity_id text, old json, new json, snapshot json,
               missing text[], modified_on timestamptz, live_since timestamptz, age interval,
               waiting boolean, noticed_at timestamptz)
language plpgsql as $$
declare
  dropped bigint;
begin
  update history_wanted h set wanted = history where h.wanted <> history;
  if not exists (select from changes) then
    return;
  end if;
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

-- These changes wait for what they point to: it is asked for by id, and they come again soon, more
-- slowly as they get older.
create or replace function postpone_changes(seqs bigint[]) returns void language plpgsql as $$
begin
  if cardinality(seqs) = 0 then
    return;
  end if;
  update changes c
  set retry_at = clock_timestamp()
                 + least(greatest((clock_timestamp() - c.noticed_at) / 4, interval '2 s'),
                         interval '30 s')
  where c.seq = any(seqs);
  insert into parent_requests as r (entity, id)
  select distinct w.entity, w.id
  from (select array_agg(c.entity order by c.seq) as entities,
               array_agg(c.entity_id order by c.seq) as ids, array_agg(c.old order by c.seq) as olds,
               array_agg(c.new order by c.seq) as news
        from changes c where c.seq = any(seqs)) a
  cross join lateral snapshots_of(a.entities, a.ids, a.olds, a.news) s
  cross join lateral jsonb_to_recordset(s.wants) as w (entity text, id bigint)
  order by 1, 2
  on conflict (entity, id) do update set asked_at = clock_timestamp(), answered_at = null
  where r.answered_at < clock_timestamp() - interval '20 min';
  if found then
    perform pg_notify('sync', '');
  end if;
end $$;
