#!/bin/sh
# The service "secrets" of docker-compose.yml makes missing secrets, and copies each to
# the services that read it, as a file that no other user can read. It never changes
# an existing secret.
set -eu
umask 077

nodes=65532    # the user of the nodes' image
database=70    # the user postgres of PostgreSQL's image

# secret NAME COMMAND... makes a secret from the output of the command.
secret() {
	name=$1
	shift
	[ -s "/authority/$name" ] || { "$@" >"/authority/$name.new" && mv "/authority/$name.new" "/authority/$name" && echo "made $name"; }
}
random() { head -c "$1" /dev/urandom | base64 | tr -d '\n='; echo; }
padded() { head -c 32 /dev/urandom | base64; }

secret gossip-key padded
secret jwt-key random 48
secret database-password random 24
[ -e /authority/revoked ] || : >/authority/revoked # no revoked tokens yet

# give DIR USER FILE [NAME] copies a file for the service that reads it.
give() {
	to=/secrets/$1/${4:-$3}
	[ -e "$to" ] && cmp -s "/authority/$3" "$to" && return
	cp "/authority/$3" "$to.new"
	chown "$2" "$to.new"
	chmod 400 "$to.new"
	mv "$to.new" "$to"
}
for role in domain gateway; do
	chown "$nodes" "/secrets/$role"
	chmod 500 "/secrets/$role"
	for file in ca.pem gossip-key database-password; do give $role $nodes $file; done
	give $role $nodes $role.pem node.pem
	give $role $nodes $role.key node.key
done
for file in jwt-key revoked; do give gateway $nodes $file; done
chown "$database" /secrets/postgres
chmod 500 /secrets/postgres
give postgres $database database-password
