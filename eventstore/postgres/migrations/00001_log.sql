-- +goose Up

-- One row per command. pos and version are those of its last event. Its n events
-- have the positions pos-n+1 … pos and the versions version-n+1 … version. The
-- type is json, not jsonb: an insert needs no parsed value, and text costs less
-- on the server and on disk. The collation is "C": names are compared, not sorted
-- for people, and no upgrade of the operating system can reorder them. The key is
-- the first column of its index, so keys that increase with time, as our clients
-- make them, fill one page after another; see
-- docs/decisions/0001-idempotency-keys.md.
create table commit (
  pos      bigint      not null,
  version  bigint      not null,
  at       timestamptz not null,
  n        integer     not null,
  hash     bytea       not null, -- of client id, command and data
  agg_type text        collate "C" not null,
  agg_id   text        collate "C" not null,
  key      text        collate "C" not null,
  meta     json        not null, -- {"client":…, "trace":…}
  events   json        not null, -- [{"t":name, "v":form, "d":data}, …]; v is absent for 1
  constraint commit_pos     primary key (pos),
  constraint commit_version unique (agg_id, agg_type, version),
  constraint commit_key     unique (key, agg_id, agg_type),
  constraint commit_events  check (n > 0 and pos >= n and version >= n)
);

-- Commits are permanent. The owner of a table can grant these rights again,
-- and a superuser needs none. The trigger protects against mistakes of both, and
-- costs an insert nothing.
revoke update, delete, truncate on commit from public, current_user;
-- +goose StatementBegin
create function commit_refuse() returns trigger language plpgsql as $$
begin
  raise exception 'commits are never changed or deleted' using errcode = 'restrict_violation';
end $$;
-- +goose StatementEnd
create trigger commit_refuse before update or delete or truncate on commit
  for each statement execute function commit_refuse();

-- One row per event, for people and for SQL.
create view event as
select c.pos - c.n + e.i                  as pos,
       c.agg_type                         as agg_type,
       c.agg_id                           as agg_id,
       c.version - c.n + e.i              as version,
       e.event ->> 't'                    as type,
       coalesce((e.event ->> 'v')::int, 1) as form,
       e.event -> 'd'                     as data,
       c.at                               as at,
       c.key                              as key,
       c.meta ->> 'client'                as client,
       c.pos                              as commit_pos
from commit c, json_array_elements(c.events) with ordinality e (event, i);

-- Kept outcomes of commands without events. They are final for a day.
create table outcome (
  agg_id   text        collate "C" not null,
  agg_type text        collate "C" not null,
  key      text        collate "C" not null,
  hash     bytea       not null,
  version  bigint      not null, -- of the decision
  at       timestamptz not null,
  answer   json,
  stored   timestamptz not null default now(),
  primary key (agg_id, agg_type, key)
);
create index outcome_stored on outcome (stored);
-- Every row is deleted after a day. Vacuum runs after a fixed number of rows:
-- with a share of the table as threshold, a busy table would keep that share as
-- dead rows.
alter table outcome set (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- A cache that can be deleted. Each version of the program has its own row for a
-- stream. A save keeps the newest of the other versions' rows and deletes the
-- rest.
create table snapshot (
  agg_id      text        collate "C" not null,
  agg_type    text        collate "C" not null,
  version     bigint      not null,
  pos         bigint      not null,
  at          timestamptz not null,
  fingerprint text        collate "C" not null,
  state       json        not null,
  stored      timestamptz not null default clock_timestamp(),
  primary key (agg_id, agg_type, fingerprint)
);

-- The log's incarnation: one row.
create table log (
  one boolean primary key default true check (one),
  id  uuid not null
);
insert into log (id) values (gen_random_uuid());

-- A program works with "schema" if it knows at least the schema "oldest". Every
-- migration inserts its own row, so a crash cannot separate the two.
create table compatible (
  schema integer primary key,
  oldest integer not null
);
insert into compatible values (1, 1);

-- lock_log makes appends to this log wait for each other until the transaction
-- ends. The key has the table's oid, so two logs in one database do not wait for
-- each other. 1195461199 is "GANG", which names the owner of the lock in pg_locks.
-- +goose StatementBegin
create function lock_log() returns void language plpgsql set search_path from current as $$
begin
  perform pg_advisory_xact_lock(1195461199, 'commit'::regclass::oid::integer);
end $$;
-- +goose StatementEnd

-- append stores one batch.
--
-- A batch has units (u_…: stream and expected version), their commands with
-- events (c_…), and their commands without events (o_…). c_unit and o_unit are
-- indexes into u_…, from 1. c_off is the position of a command's last event,
-- counted from the first event of the batch. The caller has seen the commit w_…
-- in the incarnation w_log. again means that an earlier attempt may have stored
-- the batch.
--
-- The function refuses units with known keys and units whose stream has moved,
-- and reports them. It stores all other units after the position base, in order.
--
-- Under read committed, each statement of a function has its own snapshot: the
-- statements after the lock see every earlier append.
--
-- Nearly every batch has only new keys. The function therefore checks only the
-- versions before it inserts. The unique index on keys, which every row enters
-- anyway, checks the keys. That costs nothing, while a look-up of each key would
-- cost a sixth of the server's time. A known key is then a unique violation: the
-- transaction is rolled back, and the caller sends the batch again with careful
-- set, so that keys are looked up first. A caller that expects known keys sets
-- careful in its first call, because rows that were rolled back are work for
-- vacuum. An exception block here would save the second call, but cost every
-- append a second transaction id.
--
-- A key is looked up as a range of one index, in its order, and with a limit.
-- Only that index can serve the range, so no statistics can make the planner read
-- a whole stream instead. Because the range ends at the key, the scan skips the
-- deleted rows after it that vacuum has not yet removed.
--
-- The look-ups are scalar subqueries, which the planner cannot turn into joins,
-- and the session's settings make it use indexes: a plan lives as long as the
-- connection, and the first one is made when the table is empty. unnest is called
-- in the select list, because in the from clause each array would be written to a
-- tuple store and read again. The function sets no search_path and no other
-- option, because that would add a third to the time of a lone append. The store
-- sets them when it connects.
-- +goose StatementBegin
create function append(
  w_log uuid, w_pos bigint, w_type text, w_id text, w_version bigint, w_key text, w_at timestamptz, again boolean, careful boolean,
  u_type text[], u_id text[], u_version bigint[],
  c_unit integer[], c_type text[], c_id text[], c_key text[], c_hash bytea[], c_n integer[], c_off bigint[],
  c_version bigint[], c_at timestamptz[], c_meta json[], c_events json[],
  o_unit integer[], o_type text[], o_id text[], o_key text[], o_hash bytea[],
  o_version bigint[], o_at timestamptz[], o_answer json[], o_keep boolean[],
  out base bigint, out moved_unit integer[], out moved_version bigint[], out known_unit integer[]
) language plpgsql as $$
declare
  sound   boolean; -- the log has the commit that the caller has seen
  smooth  boolean; -- only a known key can prevent the batch
  kept    boolean; -- the table outcome may have rows
  refused integer[];
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'append needs the isolation level read committed' using errcode = 'GA002';
  end if;
  perform pg_advisory_xact_lock(1195461199, 'commit'::regclass::oid::integer); -- as lock_log does

  select
    coalesce((select c.pos from commit c order by c.pos desc limit 1), 0),
    exists (select from log where log.id = w_log)
      and (w_pos = 0 or exists (select from commit c where c.pos = w_pos and c.key = w_key
        and c.agg_id = w_id and c.agg_type = w_type and c.version = w_version and c.at = w_at)),
    not (again or careful) and not exists (
      select from (select unnest(u_id) as id, unnest(u_type) as type, unnest(u_version) as expected) u
      where u.expected <> coalesce((
        select c.version from commit c where c.agg_id = u.id and c.agg_type = u.type order by c.version desc limit 1), 0)),
    pg_relation_size('outcome') > 0 -- not "exists": that would read expired rows that are not yet removed
  into base, sound, smooth, kept;
  if not sound then
    raise exception 'the log went back' using errcode = 'GA001';
  end if;

  if smooth and kept then
    smooth := not exists (
      select from (select unnest(c_id) as id, unnest(c_type) as type, unnest(c_key) as key) k
      where (select 1 from outcome o where (o.agg_id, o.agg_type, o.key) between (k.id, k.type, k.key) and (k.id, k.type, k.key)
        order by o.agg_id, o.agg_type, o.key limit 1) = 1);
  end if;
  if smooth and cardinality(o_unit) > 0 then
    smooth := not exists (
      select from (select unnest(o_id) as id, unnest(o_type) as type, unnest(o_key) as key) k
      where (select 1 from commit c where (c.key, c.agg_id, c.agg_type) between (k.key, k.id, k.type) and (k.key, k.id, k.type)
        order by c.key, c.agg_id, c.agg_type limit 1) = 1
         or (select 1 from outcome o where (o.agg_id, o.agg_type, o.key) between (k.id, k.type, k.key) and (k.id, k.type, k.key)
        order by o.agg_id, o.agg_type, o.key limit 1) = 1);
  end if;

  if smooth then
    insert into commit (pos, version, at, n, hash, agg_type, agg_id, key, meta, events)
    select base + unnest(c_off), unnest(c_version), unnest(c_at), unnest(c_n), unnest(c_hash),
      unnest(c_type), unnest(c_id), unnest(c_key), unnest(c_meta), unnest(c_events);
    if cardinality(o_unit) > 0 then
      insert into outcome (agg_id, agg_type, key, hash, version, at, answer)
      select b.id, b.type, b.key, b.hash, b.version, b.at, b.answer
      from unnest(o_type, o_id, o_key, o_hash, o_version, o_at, o_answer, o_keep)
        b (type, id, key, hash, version, at, answer, keep)
      where b.keep;
    end if;
    return;
  end if;

  select array_agg(u.i), array_agg(u.actual) into moved_unit, moved_version
  from (
    select v.i, v.expected, coalesce((
      select c.version from commit c where c.agg_id = v.id and c.agg_type = v.type order by c.version desc limit 1), 0) as actual
    from unnest(u_type, u_id, u_version) with ordinality v (type, id, expected, i) offset 0
  ) u where u.actual <> u.expected;

  select array_agg(k.unit) into known_unit
  from (
    select unit, type, id, key from unnest(c_unit, c_type, c_id, c_key) c (unit, type, id, key)
    union all
    select unit, type, id, key from unnest(o_unit, o_type, o_id, o_key) o (unit, type, id, key)
  ) k
  where (select 1 from commit c where (c.key, c.agg_id, c.agg_type) between (k.key, k.id, k.type) and (k.key, k.id, k.type)
        order by c.key, c.agg_id, c.agg_type limit 1) = 1
     or (select 1 from outcome o where (o.agg_id, o.agg_type, o.key) between (k.id, k.type, k.key) and (k.id, k.type, k.key)
        order by o.agg_id, o.agg_type, o.key limit 1) = 1;

  refused := coalesce(moved_unit, '{}') || coalesce(known_unit, '{}');
  insert into commit (pos, version, at, n, hash, agg_type, agg_id, key, meta, events)
  select base + sum(b.n) over (order by b.off), b.version, b.at, b.n, b.hash, b.type, b.id, b.key, b.meta, b.events
  from unnest(c_unit, c_off, c_version, c_at, c_n, c_hash, c_type, c_id, c_key, c_meta, c_events)
    b (unit, off, version, at, n, hash, type, id, key, meta, events)
  where b.unit <> all (refused);
  insert into outcome (agg_id, agg_type, key, hash, version, at, answer)
  select b.id, b.type, b.key, b.hash, b.version, b.at, b.answer
  from unnest(o_unit, o_type, o_id, o_key, o_hash, o_version, o_at, o_answer, o_keep)
    b (unit, type, id, key, hash, version, at, answer, keep)
  where b.keep and b.unit <> all (refused);

  -- The commit of an earlier attempt may not have reached the synchronous standby
  -- yet. Our own commit follows it in the write-ahead log, and waits until the
  -- standby has both.
  if again or known_unit is not null then
    perform pg_logical_emit_message(true, 'ganglion', '');
  end if;
end $$;
-- +goose StatementEnd
