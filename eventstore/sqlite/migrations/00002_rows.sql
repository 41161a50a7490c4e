-- +goose Up

-- Builds of projections: each has a table of rows of its own, r_NAME_ID.
create table processor_build (
  id          integer primary key autoincrement,
  name        text    not null,
  fingerprint text    not null,
  segments    integer not null check (segments > 0),
  state       text    not null,
  log_id      text    not null, -- the log's incarnation that the rows show
  since       integer not null, -- microseconds since 1970, by this machine's clock
  used        integer not null -- when a program last said that it writes the build
) strict;
create index processor_build_name on processor_build (name, fingerprint, id);

-- How far each segment of a build has come. A writer moves pos from where it has
-- seen it and writes the rows; if pos stands elsewhere, it writes nothing.
create table processor_checkpoint (
  build      integer not null references processor_build (id) on delete cascade,
  segment    integer not null,
  pos        integer not null default 0,
  commit_key text    not null default '',
  at         integer not null,
  floor      integer not null default 0,
  mends      integer not null default 0,
  primary key (build, segment)
) strict, without rowid;

-- Rows whose later events wait for an operator.
create table processor_blocked (
  build    integer not null references processor_build (id) on delete cascade,
  key      text    not null,
  segment  integer not null,
  pos      integer not null,
  attempts integer not null,
  error    text    not null,
  at       integer not null,
  primary key (build, segment, key)
) strict, without rowid;

-- Events that an operator has excluded from a row.
create table processor_skipped (
  build   integer not null references processor_build (id) on delete cascade,
  key     text    not null,
  segment integer not null,
  pos     integer not null,
  at      integer not null,
  primary key (build, segment, key, pos)
) strict, without rowid;

-- Projections that an operator has paused.
create table processor_paused (
  name text primary key
) strict, without rowid;

insert into compatible values (2, 1);
