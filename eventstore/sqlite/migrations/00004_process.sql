-- +goose Up

-- For which events a segment of a process manager sends commands: those after the
-- latest position that sends_from has for the row's key, up to sends_until.
-- sends_from is a list of lists; each has one position for each segment of a build
-- from which this one took over, and an empty list sends nothing.
alter table processor_checkpoint add column sends_from text not null default '[]';
alter table processor_checkpoint add column sends_until integer not null default 9223372036854775807;

-- A row that another build has handed over sends for the events after this position.
-- Null: the checkpoint's sends_from counts.
alter table processor_blocked add column sends_after integer;

-- The commands that process managers have decided to send. A row is deleted once
-- its outcome is final.
create table process_command (
  name     text    not null, -- of the process manager
  pos      integer not null, -- of the cause
  k        integer not null, -- which of the sequences that the cause concerns
  n        integer not null, -- which of the commands of the sequence
  build    integer not null,
  segment  integer not null,
  sequence text    not null,
  target   text    not null,
  command  text    not null,
  data     text    not null,
  depth    integer not null,
  attempts integer not null default 0,
  held     integer not null default 0,
  error    text    not null default '',
  at       integer not null,
  primary key (name, pos, k, n)
) strict, without rowid;
create index process_command_sender on process_command (name, build, segment, pos, k, n);
create index process_command_held on process_command (name, pos, k, n) where held;

insert into compatible values (4, 1);
