-- +goose Up

-- How many commands of a process manager were finally refused by their aggregates.
create table process_rejected (
  name     text    primary key, -- of the process manager
  commands integer not null,
  at       integer not null -- when the last one was counted, in microseconds since 1970
) strict, without rowid;

insert into compatible values (6, 1);
