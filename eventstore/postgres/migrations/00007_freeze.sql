-- +goose Up

-- Commits are only inserted and never change, so vacuum can freeze them when it first
-- reads them. By default it would first come when a fifth of the table is new, and leave
-- most rows for a vacuum against the wrap-around of transaction ids, which then reads all
-- of a large table together. With a fixed number, the cost of each vacuum stays the same
-- however long the log is: it skips the pages that are frozen.
alter table commit set (
  autovacuum_vacuum_insert_scale_factor = 0,
  autovacuum_vacuum_insert_threshold = 500000,
  autovacuum_freeze_min_age = 0
);

insert into compatible values (7, 1);
