-- +goose Up

-- When aggregates are to be asked whether they must be woken. The state decides; a
-- row without due was refused, and waits for another version or an operator.
create table wake (
  agg_type text        collate "C" not null,
  agg_id   text        collate "C" not null,
  segment  integer     not null,
  version  bigint      not null,
  due      timestamptz,
  refused  text        not null default '',
  primary key (agg_type, agg_id)
) with (fillfactor = 70);
create index wake_due on wake (segment, due) where due is not null;
create index wake_refused on wake (segment) where due is null;

-- How far each segment of the table has come, for each set of types that ask to be
-- woken.
create table wake_segment (
  fingerprint text        collate "C" not null,
  segment     integer     not null,
  pos         bigint      not null default 0,
  commit_key  text        not null default '',
  log_id      text        not null,
  at          timestamptz not null default clock_timestamp(),
  primary key (fingerprint, segment)
) with (fillfactor = 50);

insert into compatible values (3, 1);
