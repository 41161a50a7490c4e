-- +goose Up

-- When aggregates are to be asked whether they must be woken. The state decides; a
-- row without due was refused, and waits for another version or an operator.
create table wake (
  agg_type text    not null,
  agg_id   text    not null,
  segment  integer not null,
  version  integer not null,
  due      integer, -- microseconds since 1970, by this machine's clock
  refused  text    not null default '',
  primary key (agg_type, agg_id)
) strict, without rowid;
create index wake_due on wake (segment, due) where due is not null;
create index wake_refused on wake (segment) where due is null;

-- How far each segment of the table has come, for each set of types that ask to be
-- woken.
create table wake_segment (
  fingerprint text    not null,
  segment     integer not null,
  pos         integer not null default 0,
  commit_key  text    not null default '',
  log_id      text    not null,
  at          integer not null,
  primary key (fingerprint, segment)
) strict, without rowid;

insert into compatible values (3, 1);
