-- +goose Up

-- Builds of projections: each has a table of rows of its own, r_NAME_ID.
create table processor_build (
  id          bigint      generated always as identity primary key,
  name        text        collate "C" not null,
  fingerprint text        collate "C" not null,
  segments    integer     not null check (segments > 0),
  state       text        not null,
  log_id      text        not null, -- the log's incarnation that the rows show
  since       timestamptz not null default clock_timestamp(),
  used        timestamptz not null default clock_timestamp() -- when a program last said that it writes the build
);
create index processor_build_name on processor_build (name, fingerprint, id);

-- How far each segment of a build has come. A writer moves pos from where it has
-- seen it and writes the rows, in one statement; if pos stands elsewhere, it
-- writes nothing. The fillfactor keeps repeated updates of a row on its page.
create table processor_checkpoint (
  build      bigint      not null references processor_build (id) on delete cascade,
  segment    integer     not null,
  pos        bigint      not null default 0,
  commit_key text        not null default '',
  at         timestamptz not null default clock_timestamp(),
  floor      bigint      not null default 0,
  mends      bigint      not null default 0,
  primary key (build, segment)
) with (fillfactor = 50);

-- Rows whose later events wait for an operator.
create table processor_blocked (
  build    bigint      not null references processor_build (id) on delete cascade,
  key      text        collate "C" not null,
  segment  integer     not null,
  pos      bigint      not null,
  attempts integer     not null,
  error    text        not null,
  at       timestamptz not null default clock_timestamp(),
  primary key (build, segment, key)
);

-- Events that an operator has excluded from a row.
create table processor_skipped (
  build   bigint      not null references processor_build (id) on delete cascade,
  key     text        collate "C" not null,
  segment integer     not null,
  pos     bigint      not null,
  at      timestamptz not null default clock_timestamp(),
  primary key (build, segment, key, pos)
);

-- Projections that an operator has paused.
create table processor_paused (
  name text collate "C" primary key
);

insert into compatible values (2, 1);
