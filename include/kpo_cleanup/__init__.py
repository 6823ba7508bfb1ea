"""Find and remove pods of the KubernetesPodOperator whose task instance is over.

The modules, in the order in which a run uses them:

``dag``                       from settings to a DAG of four tasks
``tasks``                     the four tasks
``settings``                  what a person can choose
``config``                    where that comes from, and how a bad choice is refused
``airflow_compat``            what differs between Airflow 2 and 3
``errors``                    what can go wrong, and what to do about it
``retry``                     when a failed request is sent again
``constants``                the words that README, UI, logs and tests share
``text``                      pluralize things, and lines that are not too long

``kube``                      the Kubernetes API
``kube.interface``            what the rest of the package uses of it
``kube.client``               one request, and its errors
``kube.parse``                from the JSON of a response to pods
``kube.pods``                 list, read and delete pods
``pod``                       what is kept of a pod

``identity``                  a task instance as the labels of its pods name it
``task_instance``             what Airflow knows about a task instance
``task_instances``            look up task instances
``task_instances.interface``  what every source provides
``task_instances.choice``     select the source of a run
``task_instances.verification``  check that a source is this Airflow's and current
``task_instances.sql``        by SQL, from Airflow 2's session or a connection to the metadata database
``task_instances.task_sdk``   by the Task SDK of Airflow 3
``task_instances.records``    the pods that operators left on record
``task_instances.rest``       by Airflow's REST API
``task_instances.rest_api``   one request to Airflow's REST API
``task_instances.label_decoding``    the raw ids behind label values

``classify``                  the verdict on each pod, a pure function
``evidence``                  the verdict's evidence, in words
``diagnosis``                     why a zombie is there, and what to do about it
``reap``                      verify again, delete, account for every pod
``results``                   what became of every pod
``xcom_retention``              what an earlier run leaves behind and nobody needs
``xcom``                      what passes between the tasks
``report``                    what people read in the log
``metrics``                   what goes to Airflow's metrics, for alerts
"""

__version__ = "0.2.0"
