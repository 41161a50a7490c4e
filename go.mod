module github.com/ganglion-es/ganglion

go 1.26.0

replace github.com/ganglion-es/ganglion/proto => ./proto

replace github.com/ganglion-es/ganglion/domain => ./domain

replace github.com/ganglion-es/ganglion/eventstore => ./eventstore

replace github.com/ganglion-es/ganglion/router => ./router

replace github.com/ganglion-es/ganglion/gateway => ./gateway
