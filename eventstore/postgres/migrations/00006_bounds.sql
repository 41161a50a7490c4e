-- +goose Up

-- How many commands of a process manager were finally refused by their aggregates.
create table process_rejected (
  name     text        collate "C" primary key, -- of the process manager
  commands bigint      not null,
  at       timestamptz not null -- when the last one was counted
) with (fillfactor = 50);

-- At most 1,000 sequences of a group are parked. The trigger sees what other sessions
-- have committed while it waited for the group's row, which the statement that parks
-- does not see. It leaves out the row of a sequence for which there is no room.
-- +goose StatementBegin
create function consumer_parked_room() returns trigger language plpgsql set search_path from current as $$
begin
  perform from consumer where name = new.name for no key update;
  if (select count(*) from consumer_parked where name = new.name) < 1000
    or exists (select from consumer_parked where name = new.name and sequence = new.sequence) then
    return new;
  end if;
  return null;
end $$;
-- +goose StatementEnd
create trigger consumer_parked_room before insert on consumer_parked
  for each row execute function consumer_parked_room();

insert into compatible values (6, 1);
