-- +goose Up

-- Consumer groups. Each assignment and each operator's change raises the generation.
create table consumer (
  name        text    collate "C" primary key,
  generation  bigint  not null default 1,
  coordinator text    not null default '', -- the node that took the group last
  log_id      text    not null,            -- the log's incarnation that the positions belong to
  paused      boolean not null default false,
  segments    integer not null check (segments > 0)
);

-- Who holds a segment of a group, and up to where it is acknowledged. An
-- acknowledgement moves pos only under the segment's epoch, which is the generation
-- that gave the segment to its holder. A segment "~type/id" is that of a parked
-- sequence under retry. The fillfactor keeps repeated updates of a row on its page.
create table consumer_segment (
  name          text        collate "C" not null references consumer (name) on delete cascade,
  segment       text        collate "C" not null,
  pos           bigint      not null,
  commit_key    text        not null,
  epoch         bigint      not null,
  client        text        not null default '',
  member        text        not null default '',
  session       text        not null default '', -- '' if no member holds the segment
  gateway       text        not null default '',
  tries         integer     not null default 0, -- failed takeovers since pos moved
  careful_until bigint      not null default 0,
  suspect       bigint      not null default 0, -- the event that was pending first at the last one
  at            timestamptz not null default clock_timestamp(),
  primary key (name, segment)
) with (fillfactor = 50);

-- Sequences whose events are left out from a position on, until an operator retries
-- them.
create table consumer_parked (
  name     text        collate "C" not null references consumer (name) on delete cascade,
  sequence text        collate "C" not null,
  pos      bigint      not null,
  reason   text        not null,
  at       timestamptz not null default clock_timestamp(),
  primary key (name, sequence)
);

insert into compatible values (5, 1);
