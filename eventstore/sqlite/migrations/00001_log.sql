-- +goose Up

-- One row per command. pos and version are those of its last event. Its n events
-- have the positions pos-n+1 … pos and the versions version-n+1 … version.
create table "commit" (
  pos      integer primary key check (pos >= n),
  n        integer not null check (n > 0),
  agg_type text    not null,
  agg_id   text    not null,
  version  integer not null check (version >= n),
  key      text    not null,
  hash     blob    not null check (length(hash) = 16), -- of client id, command and data
  at       integer not null,                           -- microseconds since 1970, UTC
  meta     text    not null,                           -- {"client":…, "trace":…}
  events   text    not null,                           -- [{"t":name, "v":form, "d":data}, …]; v is absent for 1
  unique (agg_id, agg_type, version),
  unique (key, agg_id, agg_type)
) strict;

-- +goose StatementBegin
create trigger commit_update before update on "commit" begin
  select raise(abort, 'commits are never changed');
end;
-- +goose StatementEnd
-- +goose StatementBegin
create trigger commit_delete before delete on "commit" begin
  select raise(abort, 'commits are never deleted');
end;
-- +goose StatementEnd

-- One row per event, for people and for SQL.
create view event as
select c.pos - c.n + 1 + e.key                as pos,
       c.agg_type                             as agg_type,
       c.agg_id                               as agg_id,
       c.version - c.n + 1 + e.key            as version,
       e.value ->> '$.t'                      as type,
       coalesce(e.value ->> '$.v', 1)         as form,
       e.value -> '$.d'                       as data,
       strftime('%Y-%m-%dT%H:%M:%S', c.at / 1000000, 'unixepoch') || printf('.%06dZ', c.at % 1000000) as at,
       c.key                                  as key,
       c.meta ->> '$.client'                  as client,
       c.pos                                  as commit_pos
from "commit" c, json_each(c.events) e;

-- Kept outcomes of commands without events. They are final for a day.
create table outcome (
  agg_id   text    not null,
  agg_type text    not null,
  key      text    not null,
  hash     blob    not null check (length(hash) = 16),
  version  integer not null, -- of the decision
  at       integer not null,
  answer   text,
  stored   integer not null, -- microseconds since 1970, by this machine's clock
  primary key (agg_id, agg_type, key)
) strict, without rowid;
create index outcome_stored on outcome (stored);

-- A cache that can be deleted. Each version of the program has its own row for a
-- stream. A save keeps the newest of the other versions' rows and deletes the
-- rest.
create table snapshot (
  agg_id      text    not null,
  agg_type    text    not null,
  version     integer not null,
  pos         integer not null,
  at          integer not null,
  fingerprint text    not null,
  state       text    not null,
  stored      integer not null, -- microseconds since 1970, by this machine's clock
  primary key (agg_id, agg_type, fingerprint)
) strict, without rowid;

-- The log's incarnation: one row.
create table log (
  one integer primary key check (one = 1),
  id  text not null
) strict;

-- A program works with "schema" if it knows at least the schema "oldest". Every
-- migration inserts its own row, so a crash cannot separate the two.
create table compatible (
  schema integer primary key,
  oldest integer not null
) strict;
insert into compatible values (1, 1);
