-- +goose Up

-- Consumer groups. Each assignment and each operator's change raises the generation.
create table consumer (
  name        text    primary key,
  generation  integer not null default 1,
  coordinator text    not null default '', -- the node that took the group last
  log_id      text    not null,            -- the log's incarnation that the positions belong to
  paused      integer not null default 0,
  segments    integer not null check (segments > 0)
) strict, without rowid;

-- Who holds a segment of a group, and up to where it is acknowledged. An
-- acknowledgement moves pos only under the segment's epoch, which is the generation
-- that gave the segment to its holder. A segment "~type/id" is that of a parked
-- sequence under retry.
create table consumer_segment (
  name          text    not null references consumer (name) on delete cascade,
  segment       text    not null,
  pos           integer not null,
  commit_key    text    not null,
  epoch         integer not null,
  client        text    not null default '',
  member        text    not null default '',
  session       text    not null default '', -- '' if no member holds the segment
  gateway       text    not null default '',
  tries         integer not null default 0, -- failed takeovers since pos moved
  careful_until integer not null default 0,
  suspect       integer not null default 0, -- the event that was pending first at the last one
  at            integer not null,           -- microseconds since 1970, by this machine's clock
  primary key (name, segment)
) strict, without rowid;

-- Sequences whose events are left out from a position on, until an operator retries
-- them.
create table consumer_parked (
  name     text    not null references consumer (name) on delete cascade,
  sequence text    not null,
  pos      integer not null,
  reason   text    not null,
  at       integer not null,
  primary key (name, sequence)
) strict, without rowid;

insert into compatible values (5, 1);
